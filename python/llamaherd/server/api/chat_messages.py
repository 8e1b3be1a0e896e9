"""Converts messages of request bodies to the input of chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamaherd.server.api.request_schemas import Message, RefusalPart, TextPart


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages without null fields; content parts are joined to one text."""
    return [_message_of(message) for message in messages]


def _message_of(message: Message) -> dict[str, Any]:
    made = message.model_dump(exclude_none=True, exclude={"reasoning", "refusal"})
    made["content"] = text_of(message.content) + (message.refusal or "")
    reasoning = message.reasoning_content or message.reasoning
    return {**made, "reasoning_content": reasoning} if reasoning else made


def text_of(content: str | Sequence[TextPart | RefusalPart] | None) -> str:
    """The text of a message, its parts joined."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)
