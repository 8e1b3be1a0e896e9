"""/v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llamaherd._core import Delta, FinishReason, InvalidRequestError, TokenLogprob
from llamaherd.bounded_pool import BoundedPool
from llamaherd.config.params import SamplingParams
from llamaherd.request.infill import InfillPrompt, InfillUnsupportedError
from llamaherd.request.prompt import Prompt
from llamaherd.request.result import RequestOutput
from llamaherd.server.api import response_schemas
from llamaherd.server.api.logprobs import completion_logprobs
from llamaherd.server.api.request_schemas import CompletionRequest
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.routes.body_route import BodyRoute
from llamaherd.server.routes.request_options import format_options, sampling_options
from llamaherd.server.routes.respond import respond
from llamaherd.server.routes.response_writer import FINISH_REASONS, ChoicesWriter

router = APIRouter(route_class=BodyRoute)
# Tokens of a prompt in an event that is encoded on the event loop.
_FEW_LOGPROBS = 64


def _prompts_of(body: CompletionRequest, settings: ServerSettings) -> list[Prompt]:
    prompt: Any = body.prompt
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not prompt:
        raise InvalidRequestError("prompt must hold at least 1 prompt or token; got 0")
    if not body.suffix:
        return list(prompt)
    if body.echo:
        raise ApiError(400, "echo cannot be combined with suffix: omit one", param="echo")
    return [
        InfillPrompt(prefix=one, suffix=body.suffix, suffix_first=settings.spm_infill)
        for one in prompt
    ]


def _params(body: CompletionRequest) -> SamplingParams:
    scored = body.echo and body.logprobs is not None
    return SamplingParams(
        **sampling_options(body),
        **format_options(body.response_format),
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if scored else None,
        echo=body.echo,
        best_of=body.best_of,
    )


@router.post(
    "/v1/completions",
    response_model=response_schemas.Completion,
    responses={
        **ERRORS,
        200: response_schemas.events("With stream: events of type text_completion."),
    },
)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Complete one or several prompts."""
    context: Context = request.app.state.context
    prompts, params = _prompts_of(body, context.settings), _params(body)
    if body.stream and params.best_of and params.best_of > params.n:
        raise InvalidRequestError("best_of must equal n if stream is true")
    try:
        return await respond(
            request,
            body,
            prompts,
            params,
            lambda job: _CompletionResponseWriter(job, body, prompts, context.pools.answers),
        )
    except InfillUnsupportedError as error:
        raise ApiError(400, str(error), param="suffix", code="unsupported_field") from None


class _CompletionResponseWriter(ChoicesWriter):
    whole_object = chunk_object = "text_completion"

    def __init__(
        self,
        job: GenerationJob,
        body: CompletionRequest,
        prompts: list[Prompt],
        pool: BoundedPool,
    ) -> None:
        super().__init__(job, "cmpl-", body)
        self._body = body
        self._prompts = prompts
        self._pool = pool
        self._n = body.n or 1

    def _choices(self, results: Sequence[RequestOutput]) -> Iterator[dict[str, Any]]:
        index = 0
        for prompt, result in zip(self._prompts, results, strict=True):
            for choice in result.choices or (result,):
                logprobs = self._logprobs(prompt, choice.prompt_logprobs, choice.logprobs)
                yield self._choice(index, choice.text, choice.finish_reason, logprobs)
                index += 1

    def _choice(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        logprobs: dict[str, Any] | None,
    ) -> dict[str, Any]:
        name = None if reason is None else FINISH_REASONS[reason]
        return {"index": index, "text": text, "finish_reason": name, "logprobs": logprobs}

    def _empty_choice(self) -> dict[str, Any]:
        return self._choice(0, "", None, None)

    def _logprobs(
        self, prompt: Prompt, of_prompt: list[TokenLogprob], of_output: list[TokenLogprob]
    ) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        if not self._body.echo:
            return completion_logprobs(self._texts, of_output)
        ids: Any = self._job.llm.engine.tokenize(prompt) if isinstance(prompt, str) else prompt
        return completion_logprobs(self._texts, [*of_prompt, *of_output], ids[0])

    async def _chunks(self) -> AsyncIterator[bytes]:
        begun: set[int] = set()
        async for i, delta in self._job.deltas():
            index = i * self._n + delta.index
            if delta.text or delta.logprobs or delta.finish_reason is not None:
                first = index not in begun
                begun.add(index)
                make = partial(self._made, i, index, delta, first)
                few = len(delta.prompt_logprobs) <= _FEW_LOGPROBS
                yield make() if few else await self._pool.run(make)

    def _made(self, i: int, index: int, delta: Delta, first: bool) -> bytes:
        return self._chunk([self._piece(i, index, delta, first)])

    def _piece(self, i: int, index: int, delta: Delta, first: bool) -> dict[str, Any]:
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = completion_logprobs(self._texts, delta.logprobs)
            if first and self._body.echo:
                logprobs = self._logprobs(self._prompts[i], delta.prompt_logprobs, delta.logprobs)
        return self._choice(index, delta.text, delta.finish_reason, logprobs)
