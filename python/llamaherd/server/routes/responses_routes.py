"""/v1/responses, its stateless part."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llamaherd._core import FinishReason
from llamaherd.config.params import SamplingParams
from llamaherd.request.assistant_message import AssistantMessage, ToolCall
from llamaherd.request.chat import ChatOptions
from llamaherd.request.result import RequestOutput, Usage
from llamaherd.server.api import response_schemas
from llamaherd.server.api.item_messages import messages_of_items
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.api.response_tools import functions_of, names_in_prompt
from llamaherd.server.api.responses_request import NamedFunctionTool, ResponsesRequest
from llamaherd.server.api.sse import event
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.routes.body_route import BodyRoute
from llamaherd.server.routes.request_options import (
    format_options,
    reasoning_options,
    sampling_options,
)
from llamaherd.server.routes.respond import respond
from llamaherd.server.routes.response_writer import ResponseWriter

router = APIRouter(route_class=BodyRoute)
# What cuts an answer short.
_CUT = {FinishReason.LENGTH: "max_output_tokens", FinishReason.DEADLINE: "deadline"}


def _status_of(reason: FinishReason | None) -> str:
    """Status of a response and of its last item."""
    if reason is None:
        return "in_progress"
    return "incomplete" if reason in _CUT else "completed"


def _messages_of(body: ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    return messages + messages_of_items(body.input)


def _chat_options(body: ResponsesRequest) -> ChatOptions:
    choice = body.tool_choice or "auto"
    return ChatOptions(
        tools=functions_of(body.tools or ()),
        tool_choice=choice.name if isinstance(choice, NamedFunctionTool) else choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        **reasoning_options(body.reasoning),
        truncation=body.truncation or "disabled",
    )


def _params(body: ResponsesRequest, default_max_tokens: int) -> SamplingParams:
    given = body.max_output_tokens
    return SamplingParams(
        **sampling_options(body),
        **format_options(body.text.format if body.text else None),
        max_tokens=default_max_tokens if given is None else given,
    )


@router.post(
    "/v1/responses",
    response_model=response_schemas.ResponseAnswer,
    responses={**ERRORS, 200: response_schemas.events("With stream: typed events.")},
)
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Generate the assistant's next message."""
    context: Context = request.app.state.context
    params = _params(body, context.settings.default_max_tokens)
    return await respond(
        request,
        body,
        [_messages_of(body)],
        params,
        lambda job: _ResponsesWriter(job, body),
        _chat_options(body),
    )


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _message(id_: str, text: str, status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    content = [] if status == "in_progress" else [part]
    return {
        "id": id_,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _reasoning(id_: str, text: str, status: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": id_, "type": "reasoning", "summary": [], "content": content, "status": status}


class _ResponsesWriter(ResponseWriter):
    def __init__(self, job: GenerationJob, body: ResponsesRequest) -> None:
        super().__init__(job, "resp_")
        self._body = body
        self._n_events = 0
        self._n_reasoning = 0  # tokens
        self._in_namespaces = names_in_prompt(body.tools or ())

    async def results(self) -> list[RequestOutput]:
        (result,) = results = await super().results()
        reasoning = result.reply.reasoning if result.reply else ""
        self._n_reasoning = await self._job.count_tokens([reasoning])
        return results

    def whole(self, results: Sequence[RequestOutput]) -> dict[str, Any]:
        (result,) = results
        reply = result.reply or AssistantMessage(result.text)
        output = []
        if reply.reasoning:
            output.append(_reasoning(_id("rs"), reply.reasoning, "completed"))
        if reply.content or not (reply.reasoning or reply.tool_calls):
            output.append(_message(_id("msg"), reply.content, "completed"))
        output += [
            self.call(_id("fc"), call, call.arguments, "completed") for call in reply.tool_calls
        ]
        output[-1]["status"] = _status_of(result.finish_reason)
        return self._response(output, result.finish_reason, result.usage)

    def _response(
        self,
        output: list[dict[str, Any]],
        reason: FinishReason | None,
        usage: Usage | None,
    ) -> dict[str, Any]:
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._job.request.model,
            "status": _status_of(reason),
            "error": None,
            "incomplete_details": {"reason": _CUT[reason]} if reason in _CUT else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "store": False,
            "temperature": body.temperature,
            "tool_choice": self._dumped("tool_choice") or "auto",
            "tools": self._dumped("tools") or [],
            "top_p": body.top_p,
            "truncation": body.truncation or "disabled",
            "usage": None if usage is None else _usage(usage, self._n_reasoning, body.cache),
        }

    def call(self, id_: str, call: ToolCall, arguments: str, status: str) -> dict[str, Any]:
        namespace, name = self._in_namespaces.get(call.name, ("", call.name))
        item = {
            "id": id_,
            "type": "function_call",
            "call_id": call.id,
            "name": name,
            "arguments": arguments,
            "status": status,
        }
        return {**item, "namespace": namespace} if namespace else item

    def _dumped(self, name: str) -> Any:
        return self._body.model_dump(exclude_none=True, include={name}).get(name)

    async def events(self) -> AsyncIterator[bytes]:
        (stream,) = self._job.streams
        reader = stream.new_reader()
        assert reader is not None
        begun = False
        items = _Items(self)
        async for _, delta in self._job.deltas():
            if not begun:
                begun = True
                response = self._response([], None, None)
                yield self.event("response.created", response=response)
                yield self.event("response.in_progress", response=response)
            for piece in items.add(reader.read(delta)):
                yield piece
            if delta.finish_reason is not None:
                for piece in items.end(_status_of(delta.finish_reason)):
                    yield piece
                self._n_reasoning = await self._job.count_tokens([reader.reply.reasoning])
                whole = self._response(items.done, delta.finish_reason, stream.usage)
                name = "completed" if whole["status"] == "completed" else "incomplete"
                yield self.event(f"response.{name}", response=whole)

    def event(self, name: str, /, **fields: Any) -> bytes:
        number, self._n_events = self._n_events, self._n_events + 1
        return event({"type": name, "sequence_number": number, **fields}, name)


class _Items:
    """The output items of a streamed response; one is open at a time."""

    def __init__(self, answer: _ResponsesWriter) -> None:
        self._answer = answer
        self.done: list[dict[str, Any]] = []
        self._kind: Any = None  # of the open item: reasoning, message, or a call's index
        self._id = ""
        self._text = ""
        self._call: ToolCall | None = None
        self._next_call: ToolCall | None = None

    def add(self, added: AssistantMessage) -> list[bytes]:
        events = []
        if added.reasoning:
            events += self._open("reasoning")
            events.append(self._delta("response.reasoning_text.delta", added.reasoning))
        if added.content:
            events += self._open("message")
            events.append(self._delta("response.output_text.delta", added.content))
        for call in added.tool_calls:
            if call.id:
                self._next_call = call
            events += self._open(call.index)
            events.append(self._delta("response.function_call_arguments.delta", call.arguments))
        return events

    def end(self, status: str) -> list[bytes]:
        """Close the open item with a status; a response without items gets an empty message."""
        events = [] if self.done or self._kind is not None else self._open("message")
        return events + self._close(status)

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"item_id": self._id, "output_index": len(self.done)}
        if not isinstance(self._kind, int):
            fields["content_index"] = 0
        return fields

    def _delta(self, name: str, text: str) -> bytes:
        self._text += text
        extra: dict[str, Any] = {"logprobs": []} if name == "response.output_text.delta" else {}
        return self._answer.event(name, **self._fields(), delta=text, **extra)

    def _item(self, status: str) -> dict[str, Any]:
        if self._kind == "reasoning":
            return _reasoning(self._id, self._text, status)
        if self._kind == "message":
            return _message(self._id, self._text, status)
        assert self._call is not None
        return self._answer.call(self._id, self._call, self._text, status)

    def _open(self, kind: Any) -> list[bytes]:
        if kind == self._kind:
            return []
        events = self._close()
        self._kind, self._text = kind, ""
        self._id = _id({"reasoning": "rs", "message": "msg"}.get(kind, "fc"))
        if isinstance(kind, int):
            self._call = self._next_call
        emit = self._answer.event
        index = len(self.done)
        events.append(
            emit("response.output_item.added", output_index=index, item=self._item("in_progress"))
        )
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": []}
            events.append(emit("response.content_part.added", **self._fields(), part=part))
        return events

    def _close(self, status: str = "completed") -> list[bytes]:
        if self._kind is None:
            return []
        emit, fields = self._answer.event, self._fields()
        events = []
        if self._kind == "reasoning":
            events.append(emit("response.reasoning_text.done", **fields, text=self._text))
        elif self._kind == "message":
            part = {"type": "output_text", "text": self._text, "annotations": []}
            text = {"text": self._text, "logprobs": []}
            events.append(emit("response.output_text.done", **fields, **text))
            events.append(emit("response.content_part.done", **fields, part=part))
        else:
            name = "response.function_call_arguments.done"
            assert self._call is not None
            made = self._item(status)
            events.append(emit(name, **fields, name=made["name"], arguments=self._text))
        item = self._item(status)
        index = len(self.done)
        events.append(emit("response.output_item.done", output_index=index, item=item))
        self.done.append(item)
        self._kind = None
        return events


def _usage(usage: Usage, n_reasoning: int, is_cached: bool) -> dict[str, Any]:
    n_written = usage.prompt_tokens - usage.cached_tokens if is_cached else 0
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": n_written,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": n_reasoning},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
