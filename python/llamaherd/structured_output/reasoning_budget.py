"""A limit of reasoning tokens: the end of reasoning is forced."""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass

from llamaherd.structured_output.reasoning import Reasoning, ReasoningMarkers


@dataclass(frozen=True)
class ReasoningBudget:
    """The reasoning tokens of one output.

    Attributes:
      n_tokens: Maximum, >= 0. Completing a character may take some more.
      markers: Texts around reasoning.
      closing: Tokens that end reasoning.
    """

    n_tokens: int
    markers: ReasoningMarkers
    closing: tuple[int, ...]


class BudgetedReasoning:
    """The reasoning of one output under a budget."""

    def __init__(self, budget: ReasoningBudget) -> None:
        self._n_left = budget.n_tokens
        self._reasoning = Reasoning(budget.markers)
        self._closing = budget.closing
        self._forced: deque[int] = deque()
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_ended = False
        self._force()

    @property
    def forced(self) -> int | None:
        """The only token that may be next; None: any."""
        return self._forced[0] if self._forced else None

    @property
    def is_over(self) -> bool:
        """Whether no token will be forced any more."""
        return self._has_ended and not self._forced

    def read(self, token: int, name: bytes) -> None:
        """Add an output token, given with its bytes."""
        was_open = self._reasoning.is_open
        self._reasoning.read(name)
        if self._forced:
            self._forced.popleft()
            return
        self._has_ended = self._has_ended or (was_open and not self._reasoning.is_open)
        if was_open:
            self._n_left -= 1
            self._characters.decode(name)
        self._force()

    def _force(self) -> None:
        in_character = bool(self._characters.getstate()[0])
        if self._reasoning.is_open and self._n_left <= 0 and not in_character:
            self._forced.extend(self._closing)
            self._has_ended = True
