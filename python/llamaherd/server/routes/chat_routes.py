"""/v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llamaherd._core import FinishReason, InvalidRequestError, TokenLogprob
from llamaherd.config.params import SamplingParams
from llamaherd.request.assistant_message import AssistantMessage, MessageReader, ToolCall
from llamaherd.request.chat import ChatOptions
from llamaherd.request.result import RequestOutput
from llamaherd.server.api import response_schemas
from llamaherd.server.api.chat_messages import messages_of
from llamaherd.server.api.logprobs import chat_logprobs
from llamaherd.server.api.request_schemas import ChatRequest, NamedTool
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.routes.body_route import BodyRoute
from llamaherd.server.routes.request_options import (
    format_options,
    reasoning_options,
    sampling_options,
)
from llamaherd.server.routes.respond import respond
from llamaherd.server.routes.response_writer import FINISH_REASONS, ChoicesWriter

router = APIRouter(route_class=BodyRoute)


def _chat_options(body: ChatRequest) -> ChatOptions:
    choice = body.tool_choice or "auto"
    return ChatOptions(
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools or ()],
        tool_choice=choice.function.name if isinstance(choice, NamedTool) else choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        **reasoning_options(body.reasoning, body.reasoning_effort, body.thinking_budget_tokens),
        template_kwargs=body.chat_template_kwargs,
        continue_final_message=_continues(body),
        truncation=body.truncation or "disabled",
    )


def _continues(body: ChatRequest) -> bool | None:
    if body.add_generation_prompt is None:
        return body.continue_final_message
    if body.add_generation_prompt is body.continue_final_message:
        raise InvalidRequestError(
            "continue_final_message must be the opposite of add_generation_prompt; both are "
            f"{str(body.continue_final_message).lower()}"
        )
    return not body.add_generation_prompt


def _params(body: ChatRequest, default_max_tokens: int) -> SamplingParams:
    given = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if body.max_tokens not in (None, given):
        raise InvalidRequestError(
            "max_tokens and max_completion_tokens must be equal if both are set; got "
            f"{body.max_tokens} and {given}"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequestError("top_logprobs requires logprobs: true")
    return SamplingParams(
        **sampling_options(body),
        **format_options(body.response_format),
        max_tokens=default_max_tokens if given is None else given,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


@router.post(
    "/v1/chat/completions",
    response_model=response_schemas.ChatCompletion,
    responses={
        **ERRORS,
        200: response_schemas.events("With stream: events of type chat.completion.chunk."),
    },
)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Generate the assistant's next message."""
    context: Context = request.app.state.context
    params = _params(body, context.settings.default_max_tokens)
    return await respond(
        request,
        body,
        [messages_of(body.messages)],
        params,
        lambda job: _ChatResponseWriter(job, body),
        _chat_options(body),
    )


@dataclass
class _Choice:
    """One choice of a streamed response."""

    reader: MessageReader
    called: bool = False


class _ChatResponseWriter(ChoicesWriter):
    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, job: GenerationJob, body: ChatRequest) -> None:
        super().__init__(job, "chatcmpl-", body)
        self._body = body

    async def results(self) -> list[RequestOutput]:
        (result,) = results = await super().results()
        replies = [choice.reply for choice in result.choices or (result,)]
        reasoning = [reply.reasoning for reply in replies if reply is not None]
        self._n_reasoning = await self._job.count_tokens(reasoning)
        return results

    def _choices(self, results: Sequence[RequestOutput]) -> Iterator[dict[str, Any]]:
        (result,) = results
        for i, choice in enumerate(result.choices or (result,)):
            yield self._choice(i, choice)

    def _choice(self, index: int, result: RequestOutput) -> dict[str, Any]:
        reply = result.reply or AssistantMessage(result.text)
        message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
        if reply.reasoning:
            message["reasoning_content"] = reply.reasoning
        if reply.tool_calls:
            message["content"] = reply.content or None
            message["tool_calls"] = [_tool_call(call) for call in reply.tool_calls]
        return {
            "index": index,
            "message": message,
            "finish_reason": _finish_reason(result.finish_reason, bool(reply.tool_calls)),
            "logprobs": self._logprobs(result.logprobs),
        }

    async def _chunks(self) -> AsyncIterator[bytes]:
        (stream,) = self._job.streams
        choices: dict[int, _Choice] = {}
        async for _, delta in self._job.deltas():
            choice = choices.get(delta.index)
            if choice is None:
                reader = stream.new_reader()
                assert reader is not None
                choice = choices[delta.index] = _Choice(reader)
                yield self._event(delta.index, {"role": "assistant", "content": ""})
            added = choice.reader.read(delta)
            choice.called |= bool(added.tool_calls)
            if added or delta.logprobs:
                yield self._event(
                    delta.index, _delta_of(added), logprobs=self._logprobs(delta.logprobs)
                )
            if delta.finish_reason is not None:
                if self._include_usage:
                    reasoning = choice.reader.reply.reasoning
                    self._n_reasoning += await self._job.count_tokens([reasoning])
                reason = _finish_reason(delta.finish_reason, choice.called)
                yield self._event(delta.index, {}, reason)

    def _empty_choice(self) -> dict[str, Any]:
        return {"index": 0, "delta": {}, "finish_reason": None}

    def _logprobs(self, tokens: list[TokenLogprob]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return chat_logprobs(self._texts, tokens, self._body.top_logprobs or 0)

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        reason: str | None = None,
        *,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        if self._body.logprobs:
            choice["logprobs"] = logprobs
        return self._chunk([choice])


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _delta_of(added: AssistantMessage) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if added.content:
        delta["content"] = added.content
    if added.reasoning:
        delta["reasoning_content"] = added.reasoning
    if added.tool_calls:
        delta["tool_calls"] = [
            {"index": call.index, **_tool_call(call)}
            if call.id
            else {"index": call.index, "function": {"arguments": call.arguments}}
            for call in added.tool_calls
        ]
    return delta


def _finish_reason(reason: FinishReason | None, called: bool) -> str:
    name = FINISH_REASONS[reason or FinishReason.STOP]
    return "tool_calls" if called and name == "stop" else name
