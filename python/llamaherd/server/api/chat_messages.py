"""Converts messages of request bodies to the input of chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamaherd.server.api.request_schemas import Message, TextPart


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages without null fields; content parts are joined to one text."""
    return [
        {**message.model_dump(exclude_none=True), "content": text_of(message.content)}
        for message in messages
    ]


def text_of(content: str | Sequence[TextPart] | None) -> str:
    """The text of a message, its parts joined."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)
