"""Turns of a conversation, and dropping the oldest of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamaherd.request.prompt import Message

_INSTRUCTIONS = ("system", "developer")


def without_oldest_turns(
    messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]
) -> Sequence[Message]:
    """Drop as few of the oldest turns as possible, so that the conversation fits.

    Leading system and developer messages and the last turn are kept. A turn begins with a user
    message; results of tools after it belong to a call before it, so it then begins no turn.

    Args:
      messages: A conversation in OpenAI's format.
      fits: Whether a conversation fits; called at most 2 + log2(turns) times.

    Returns:
      The conversation; the last turn if no conversation fits.
    """
    if fits(messages):
        return messages
    n_kept = _n_leading(messages)
    begins = _begins_of_turns(messages, n_kept)
    if begins and begins[0] == n_kept:
        begins = begins[1:]  # this one drops nothing

    def after(begin: int) -> list[Message]:
        return [*messages[:n_kept], *messages[begin:]]

    if not begins:
        return messages
    low, high = 0, len(begins) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(after(begins[middle])):
            high = middle
        else:
            low = middle + 1
    return after(begins[high])


def _n_leading(messages: Sequence[Message]) -> int:
    n = 0
    while n < len(messages) and _role(messages[n]) in _INSTRUCTIONS:
        n += 1
    return n


def _begins_of_turns(messages: Sequence[Message], first: int) -> list[int]:
    begins = []
    answered_by = None  # role of the message that follows the user's
    for i in range(len(messages) - 1, first - 1, -1):
        role = _role(messages[i])
        if role == "user" and answered_by != "tool":
            begins.append(i)
        if role != "user" and role not in _INSTRUCTIONS:
            answered_by = role
    return begins[::-1]


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None
