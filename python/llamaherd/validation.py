"""Validation of input text."""

from __future__ import annotations

from llamaherd._core import InvalidRequestError


def require_unicode(name: str, text: str) -> None:
    """Raise InvalidRequestError if a text contains a lone surrogate, which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{name} holds a character that is not valid Unicode, {text[error.start]!r}, at index "
            f"{error.start}"
        ) from None
