"""/v1/chat/completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llamaherd._core import Delta, FinishReason, InvalidRequestError
from llamaherd.config.params import SamplingParams
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.request.chat import AssistantMessage, ChatOptions, MessageReader, ToolCall
from llamaherd.request.result import RequestOutput
from llamaherd.server.api import response_schemas
from llamaherd.server.api.json_stream import Items
from llamaherd.server.api.logprobs import TokenTexts, chat_logprobs
from llamaherd.server.api.request_schemas import ChatRequest, Message, NamedTool, TextPart
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.api.sse import DONE, event
from llamaherd.server.jobs.generation import (
    FINISH_REASONS,
    Context,
    Job,
    format_options,
    now,
    sampling_options,
    usage_of,
)
from llamaherd.server.routes.body_route import BodyRoute
from llamaherd.server.routes.respond import respond

router = APIRouter(route_class=BodyRoute)


def messages_of(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as the template takes them, their parts joined."""
    out = []
    for message in messages:
        plain = message.model_dump(exclude_none=True)
        content = message.content
        if isinstance(content, list):
            plain["content"] = "".join(part.text for part in content if isinstance(part, TextPart))
        elif content is None:
            plain["content"] = ""
        out.append(plain)
    return out


def _chat_options(body: ChatRequest) -> ChatOptions:
    choice = body.tool_choice or "auto"
    return ChatOptions(
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools or ()],
        tool_choice=choice.function.name if isinstance(choice, NamedTool) else choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        thinking=body.reasoning_effort not in ("none", "minimal"),
        template_kwargs=body.chat_template_kwargs,
    )


def _params(body: ChatRequest, default_max_tokens: int) -> SamplingParams:
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise InvalidRequestError("only one of max_tokens, max_completion_tokens may be set")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs")
    given = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    return SamplingParams(
        **sampling_options(body),
        **format_options(body.response_format),
        max_tokens=default_max_tokens if given is None else given,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


@router.post(
    "/v1/chat/completions",
    response_model=response_schemas.ChatCompletion,
    responses={**ERRORS, 200: response_schemas.events("Or events, each a chat.completion.chunk.")},
)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """The assistant's next message."""
    context: Context = request.app.state.context
    params = _params(body, context.settings.default_max_tokens)
    return await respond(
        request,
        body,
        [messages_of(body.messages)],
        params,
        lambda job: _ChatResponseWriter(job, body),
        stream=body.stream,
        chat=_chat_options(body),
    )


@dataclass
class _Choice:
    """One choice of a streamed answer."""

    reader: MessageReader
    called: bool = False


class _ChatResponseWriter:
    """One answer, whole or in pieces."""

    def __init__(self, job: Job, body: ChatRequest) -> None:
        self._job = job
        self._engine: BatchEngine = job.llm.engine
        self._body = body
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": now(),
            "model": job.model,
        }
        self._texts = TokenTexts(self._engine)
        self._include_usage = bool(body.stream_options and body.stream_options.include_usage)

    def whole(self, results: Sequence[RequestOutput]) -> dict[str, Any]:
        (result,) = results
        choices = result.choices or (result,)
        return {
            **self._head,
            "object": "chat.completion",
            "choices": Items(self._choice(i, choice) for i, choice in enumerate(choices)),
            "usage": usage_of([result.usage]),
        }

    def _choice(self, index: int, result: RequestOutput) -> dict[str, Any]:
        reply = result.reply or AssistantMessage(result.text)
        message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
        if reply.reasoning:
            message["reasoning_content"] = reply.reasoning
        if reply.tool_calls:
            message["content"] = reply.content or None
            message["tool_calls"] = [_tool_call(call) for call in reply.tool_calls]
        logprobs = None
        if self._body.logprobs:
            logprobs = chat_logprobs(self._texts, result.logprobs, self._body.top_logprobs or 0)
        return {
            "index": index,
            "message": message,
            "finish_reason": _finish_reason(result.finish_reason, bool(reply.tool_calls)),
            "logprobs": logprobs,
        }

    async def events(self) -> AsyncIterator[bytes]:
        job = self._job
        stream = job.streams[0]
        choices: dict[int, _Choice] = {}
        async for _, delta in job.deltas():
            choice = choices.get(delta.index)
            if choice is None:
                reader = stream.new_reader()
                assert reader is not None
                choice = choices[delta.index] = _Choice(reader)
                yield self._event(delta.index, {"role": "assistant", "content": ""})
            added = choice.reader.read(delta)
            choice.called |= bool(added.tool_calls)
            if added or delta.logprobs:
                yield self._event(delta.index, _delta_of(added), logprobs=self._logprobs(delta))
            if delta.finish_reason is not None:
                reason = _finish_reason(delta.finish_reason, choice.called)
                yield self._event(delta.index, {}, reason)
        if self._include_usage:
            yield self._chunk([], usage_of([stream.usage]))
        yield DONE

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return chat_logprobs(self._texts, delta.logprobs, self._body.top_logprobs or 0)

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

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._include_usage:
            chunk["usage"] = usage
        return event(chunk)


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
