"""Converts input items of /v1/responses to messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from llamaherd.server.api.chat_messages import content_of, parts_of
from llamaherd.server.api.response_items import (
    FunctionCallItem,
    FunctionOutputItem,
    InputMessage,
    ReasoningItem,
)
from llamaherd.server.api.response_tools import name_in_prompt

Item = InputMessage | ReasoningItem | FunctionCallItem | FunctionOutputItem

_BETWEEN_THOUGHTS = "\n\n"


def messages_of_items(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Messages for the chat template. Consecutive items of the assistant are one message with
    reasoning, content and tool calls, as the model wrote them."""
    messages: list[dict[str, Any]] = []
    for is_assistant, group in groupby(items, _is_assistant):
        some = list(group)
        messages += _assistant_messages(some) if is_assistant else map(_message, some)
    return messages


def _is_assistant(item: Item) -> bool:
    if isinstance(item, InputMessage):
        return item.role == "assistant"
    return not isinstance(item, FunctionOutputItem)


def _message(item: Item) -> dict[str, Any]:
    if isinstance(item, InputMessage):
        return {"role": item.role, "content": content_of(parts_of(item.content))}
    assert isinstance(item, FunctionOutputItem)
    message = {"role": "tool", "content": content_of(parts_of(item.output))}
    return {**message, "tool_call_id": item.call_id} if item.call_id else message


def _assistant_messages(items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    """One message, or none if the items are reasoning without text."""
    said = [item for item in items if isinstance(item, InputMessage)]
    thoughts = [thought for item in items if (thought := _thought(item))]
    calls = [_call(item) for item in items if isinstance(item, FunctionCallItem)]
    if not (said or thoughts or calls):
        return
    parts = [part for item in said for part in parts_of(item.content)]
    message: dict[str, Any] = {"role": "assistant", "content": content_of(parts)}
    if thoughts:
        message["reasoning_content"] = _BETWEEN_THOUGHTS.join(thoughts)
    if calls:
        message["tool_calls"] = calls
    yield message


def _thought(item: Item) -> str:
    """The text of a reasoning item; its summary, if it has no text."""
    if not isinstance(item, ReasoningItem):
        return ""
    return _BETWEEN_THOUGHTS.join(part.text for part in item.content or item.summary or ())


def _call(item: FunctionCallItem) -> dict[str, Any]:
    function = {"name": name_in_prompt(item.name, item.namespace), "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}
