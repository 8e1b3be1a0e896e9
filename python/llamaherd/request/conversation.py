"""Turns of a conversation, and dropping the oldest of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import dropwhile
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
    begins = [i for i in range(n_kept, len(messages)) if _begins_turn(messages, i)]
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


def _begins_turn(messages: Sequence[Message], i: int) -> bool:
    if _role(messages[i]) != "user":
        return False
    after = dropwhile(lambda message: _role(message) in ("user", *_INSTRUCTIONS), messages[i:])
    following = next(after, None)
    return following is None or _role(following) != "tool"


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None
