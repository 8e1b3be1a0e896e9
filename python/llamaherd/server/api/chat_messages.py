"""Converts messages of request bodies to the input of chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamaherd.server.api.content_parts import RefusalPart, TextPart
from llamaherd.server.api.request_schemas import Message


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages without null fields."""
    return [_message_of(message) for message in messages]


def _message_of(message: Message) -> dict[str, Any]:
    made = message.model_dump(exclude_none=True, exclude={"reasoning", "refusal"})
    parts = parts_of(message.content)
    made["content"] = content_of([*parts, message.refusal] if message.refusal else parts)
    reasoning = message.reasoning_content or message.reasoning
    return {**made, "reasoning_content": reasoning} if reasoning else made


def parts_of(content: str | Sequence[TextPart | RefusalPart] | None) -> list[str]:
    """The texts of a message, except for empty ones."""
    if content is None or isinstance(content, str):
        return [content] if content else []
    texts = (part.text if isinstance(part, TextPart) else part.refusal for part in content)
    return [text for text in texts if text]


def content_of(parts: Sequence[str]) -> str | list[dict[str, str]]:
    """The content of a message: a text, or several as parts, which the chat template joins."""
    if len(parts) > 1:
        return [{"type": "text", "text": text} for text in parts]
    return parts[0] if parts else ""
