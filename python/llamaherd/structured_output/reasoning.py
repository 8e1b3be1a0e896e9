"""Reasoning in the text of an output."""

from __future__ import annotations

from dataclasses import dataclass

from llamaherd import _core


@dataclass(frozen=True)
class ReasoningMarkers:
    """The texts around a model's reasoning.

    Attributes:
      begin: Start of reasoning; empty: reasoning is not recognized.
      ends: Ends of reasoning.
      before: Generation prompt; it may contain the start of reasoning.
    """

    begin: str = ""
    ends: tuple[str, ...] = ()
    before: str = ""

    @classmethod
    def of(cls, grammar: _core.ToolGrammar) -> ReasoningMarkers:
        """The markers of a model's format."""
        return cls(grammar.thought_begin, tuple(grammar.thought_ends), grammar.generation_prompt)


NO_REASONING = ReasoningMarkers()


class Reasoning:
    """Whether the end of a text, which is read in pieces, is reasoning.

    Attributes:
      is_open: The result.
    """

    def __init__(self, markers: ReasoningMarkers) -> None:
        self.is_open = False
        self._begin = markers.begin.encode()
        self._ends = tuple(end.encode() for end in markers.ends)
        self._n_tail = max(map(len, (self._begin, *self._ends)))
        self._tail = b""
        self.read(markers.before.encode())

    def read(self, piece: bytes) -> None:
        """Add a piece of the text."""
        if not self._begin:
            return
        for char in piece:
            self._tail = (self._tail + bytes([char]))[-self._n_tail :]
            if self.is_open:
                self.is_open = not self._tail.endswith(self._ends)
            else:
                self.is_open = self._tail.endswith(self._begin)
