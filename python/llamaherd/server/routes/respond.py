"""Runs generation requests, streamed or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response

from llamaherd.config.params import SamplingParams
from llamaherd.request.chat import ChatOptions
from llamaherd.request.prompt import Prompt
from llamaherd.request.result import RequestOutput
from llamaherd.server.api.infill_schemas import InfillRequest
from llamaherd.server.api.json_stream import JsonStream, json_answer
from llamaherd.server.api.request_schemas import ChatRequest, CompletionRequest
from llamaherd.server.api.responses_request import ResponsesRequest
from llamaherd.server.api.sse import EventStream
from llamaherd.server.common.disconnect import watching
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.jobs.job_request import JobRequest
from llamaherd.server.routes.request_options import scheduling_options
from llamaherd.server.routes.response_writer import ResponseWriter
from llamaherd.server.routes.unenforced_header import unenforced_header

_PROMPT_FIELDS: dict[type, str] = {
    ChatRequest: "messages",
    CompletionRequest: "prompt",
    InfillRequest: "input_prefix",
    ResponsesRequest: "input",
}


async def respond(
    request: Request,
    body: ChatRequest | CompletionRequest | InfillRequest | ResponsesRequest,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    writer_of: Callable[[GenerationJob], ResponseWriter],
    chat: ChatOptions | None = None,
) -> Response:
    """Run a request's prompts and respond; a client disconnect cancels them.

    Raises:
      ApiError: An output failed, or the server is stopping.
    """
    context: Context = request.app.state.context
    state = request.state
    job_request = JobRequest(
        model=context.model_name(body.model),
        scheduling=scheduling_options(body, state.key, context.settings),
        request_id=state.request_id,
        n_bytes=len(await request.body()),
        span=state.span,
        prompt_field=_PROMPT_FIELDS[type(body)],
    )
    if body.stream:
        run = _StreamedRun(context, job_request, prompts, params, chat, writer_of)
        has_progress = isinstance(body, ChatRequest | CompletionRequest) and body.return_progress
        answer = await EventStream.begin(
            request,
            run.events(),
            run.cancel,
            context.settings,
            run.progress if has_progress else None,
        )
        answer.headers.update(run.headers())
        return answer
    async with AsyncExitStack() as stack:
        job = await stack.enter_async_context(context.job(job_request))
        async with watching(request.receive, job.cancel):
            await job.submit(prompts, params, chat)
            writer = writer_of(job)
            results = await writer.results()
        made = json_answer(writer.whole(results), _n_values(results), context.pools.answers)
        made.headers.update(unenforced_header(job.streams))
        if isinstance(made, JsonStream):
            made.when_done(stack.pop_all())
        return made


class _StreamedRun:
    """A job that starts, its model's load included, when the first of its events is awaited."""

    def __init__(
        self,
        context: Context,
        request: JobRequest,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        chat: ChatOptions | None,
        writer_of: Callable[[GenerationJob], ResponseWriter],
    ) -> None:
        self._context = context
        self._request = request
        self._submitted = prompts, params, chat
        self._writer_of = writer_of
        self._job: GenerationJob | None = None
        self._writer: ResponseWriter | None = None
        self._is_cancelled = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        async with self._context.job(self._request) as job:
            self._job = job
            if self._is_cancelled:
                job.cancel()
            await job.submit(*self._submitted)
            self._writer = self._writer_of(job)
            async for piece in self._writer.events():
                yield piece

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._job is not None:
            self._job.cancel()

    def headers(self) -> dict[str, str]:
        """Headers of the response, as far as they are known now."""
        return {} if self._job is None else unenforced_header(self._job.streams)

    def progress(self) -> bytes | None:
        return None if self._writer is None else self._writer.progress()


def _n_values(results: Sequence[RequestOutput]) -> int:
    n = 0
    for result in results:
        for choice in result.choices or (result,):
            for logprobs in (choice.logprobs, choice.prompt_logprobs):
                n += len(logprobs) * (1 + (len(logprobs[-1].top) if logprobs else 0))
            n += len(choice.token_ids)
    return n
