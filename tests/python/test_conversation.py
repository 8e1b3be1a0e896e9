"""Which turns of a conversation are dropped so that it fits."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from llamaherd.request.conversation import without_oldest_turns

SYSTEM = {"role": "system", "content": "s"}
DEVELOPER = {"role": "developer", "content": "d"}


def turn(i: int, *, calls: bool = False) -> list[dict[str, Any]]:
    messages = [{"role": "user", "content": f"u{i}"}]
    if calls:
        messages += [
            {"role": "assistant", "content": f"c{i}"},
            {"role": "tool", "content": f"t{i}"},
        ]
    return [*messages, {"role": "assistant", "content": f"a{i}"}]


def contents(messages: Sequence[Any]) -> str:
    return " ".join(message["content"] for message in messages)


def kept(messages: list[Any], n_most: int) -> str:
    return contents(without_oldest_turns(messages, lambda some: len(some) <= n_most))


def test_what_fits_is_unchanged() -> None:
    messages = [SYSTEM, *turn(1), *turn(2)]
    assert without_oldest_turns(messages, lambda some: True) is messages


@pytest.mark.parametrize(
    ("n_most", "expected"),
    [
        (10, "s d u2 c2 t2 a2 u3 a3 u4"),
        (8, "s d u3 a3 u4"),
        (5, "s d u3 a3 u4"),
        (4, "s d u4"),
        (1, "s d u4"),  # the last turn is kept even if it does not fit
    ],
)
def test_the_oldest_turns_are_dropped_whole(n_most: int, expected: str) -> None:
    last = {"role": "user", "content": "u4"}
    messages = [SYSTEM, DEVELOPER, *turn(1), *turn(2, calls=True), *turn(3), last]
    assert kept(messages, n_most) == expected


def test_messages_before_the_first_turn_are_dropped_first() -> None:
    messages = [SYSTEM, {"role": "assistant", "content": "hello"}, *turn(1), *turn(2)]
    assert kept(messages, 5) == "s u1 a1 u2 a2"


def test_results_of_tools_stay_with_their_calls() -> None:
    late = {"role": "tool", "content": "late"}
    called = {"role": "assistant", "content": "call"}
    between = {"role": "user", "content": "hurry"}
    messages = [SYSTEM, *turn(1), {"role": "user", "content": "u2"}, called, between, late]
    assert kept(messages, 3) == "s u2 call hurry late"


def test_a_conversation_of_one_turn_stays_as_it_is() -> None:
    for messages in (
        [SYSTEM],
        turn(1),
        [SYSTEM, *turn(1)],
        [{"role": "assistant", "content": "a"}],
    ):
        assert without_oldest_turns(messages, lambda some: False) == messages


def test_few_conversations_are_tried() -> None:
    rng = random.Random(1)
    for _ in range(200):
        n_turns = rng.randint(1, 60)
        messages = [SYSTEM] * rng.randint(0, 2)
        n_leading = len(messages)
        messages += [m for i in range(n_turns) for m in turn(i, calls=rng.random() < 0.3)]
        n_most = rng.randint(1, len(messages) + 2)
        tried = 0

        def fits(some: Sequence[Any], n_most: int = n_most) -> bool:
            nonlocal tried
            tried += 1
            return len(some) <= n_most

        found = without_oldest_turns(messages, fits)
        assert tried <= 2 + math.log2(n_turns)
        begins = [i for i, m in enumerate(messages) if m["role"] == "user"]
        candidates = [[*messages[:n_leading], *messages[i:]] for i in begins]
        fitting = [c for c in candidates if len(c) <= n_most]
        assert found == (fitting[0] if fitting else candidates[-1])
