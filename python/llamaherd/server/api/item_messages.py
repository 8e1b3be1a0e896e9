"""Converts input items of /v1/responses to messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamaherd.server.api.chat_messages import content_of, parts_of
from llamaherd.server.api.response_items import (
    FunctionCallItem,
    FunctionOutputItem,
    InputItem,
    InputMessage,
    ReasoningItem,
)

_BETWEEN_THOUGHTS = "\n\n"


def messages_of_items(items: Sequence[InputItem]) -> list[dict[str, Any]]:
    """Messages for the chat template. Consecutive items of the assistant are one message with
    reasoning, content and tool calls, as the model wrote them."""
    messages: list[dict[str, Any]] = []
    answer: _Answer | None = None
    for item in items:
        if isinstance(item, FunctionOutputItem):
            answer = None
            messages.append(_result(item))
        elif isinstance(item, InputMessage) and item.role != "assistant":
            answer = None
            messages.append({"role": item.role, "content": content_of(parts_of(item.content))})
        elif not isinstance(item, ReasoningItem) or _thought(item):
            answer = answer or _Answer(messages)
            answer.add(item)
    return messages


class _Answer:
    """The assistant message at the end of a list."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self._message: dict[str, Any] = {"role": "assistant", "content": ""}
        self._parts: list[str] = []
        messages.append(self._message)

    def add(self, item: InputMessage | FunctionCallItem | ReasoningItem) -> None:
        message = self._message
        if isinstance(item, ReasoningItem):
            thoughts = [message.get("reasoning_content", ""), _thought(item)]
            message["reasoning_content"] = _BETWEEN_THOUGHTS.join(filter(None, thoughts))
        elif isinstance(item, InputMessage):
            self._parts += parts_of(item.content)
            message["content"] = content_of(self._parts)
        else:
            message.setdefault("tool_calls", []).append(_call(item))


def _thought(item: ReasoningItem) -> str:
    """The text of a reasoning item; its summary, if it has no text."""
    parts = item.content or item.summary or ()
    return _BETWEEN_THOUGHTS.join(part.text for part in parts)


def _call(item: FunctionCallItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _result(item: FunctionOutputItem) -> dict[str, Any]:
    message = {"role": "tool", "content": content_of(parts_of(item.output))}
    return {**message, "tool_call_id": item.call_id} if item.call_id else message
