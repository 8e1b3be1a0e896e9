"""Checks of text from outside."""

from __future__ import annotations

from llamaherd._core import InvalidRequestError


def require_unicode(name: str, text: str) -> None:
    """Raises InvalidRequestError if a text holds a lone surrogate, which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{name} holds a character that is not valid Unicode, {text[error.start]!r}, at index "
            f"{error.start}"
        ) from None
