"""Triggers: texts of an output from which on a constraint applies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.structured_output.reasoning import NO_REASONING, Reasoning, ReasoningMarkers

# Bytes searched for a trigger; beyond, only ^ in a pattern refers to the beginning of the text.
_N_SEARCHED = 1024


@dataclass(frozen=True)
class Triggers:
    """Texts from which on a constraint applies. Before, all tokens are allowed.

    Attributes:
      words: Literal triggers.
      patterns: Regular expressions; the constraint applies from the first matching group, or from
        the whole match if there are no groups.
      reasoning: Markers of reasoning, in which no trigger is searched.
    """

    words: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    reasoning: ReasoningMarkers = NO_REASONING

    @classmethod
    def of(cls, grammar: _core.ToolGrammar) -> Triggers:
        """The triggers of a model's tool calls.

        Raises:
          InvalidRequestError: A pattern is invalid in Python.
        """
        triggers = cls(
            words=tuple(grammar.words),
            patterns=tuple(grammar.patterns),
            reasoning=ReasoningMarkers.of(grammar),
        )
        try:
            _ = triggers.compiled
        except re.error as error:
            raise InvalidRequestError(
                f"the model's tool call format cannot be used: {error}"
            ) from None
        return triggers

    @cached_property
    def compiled(self) -> tuple[re.Pattern[bytes], ...]:
        """All triggers as patterns."""
        words = tuple(re.compile(re.escape(word.encode())) for word in self.words)
        return words + tuple(map(_compiled, self.patterns))

    @property
    def needed(self) -> list[str]:
        """Texts one of which every trigger contains; empty: unknown."""
        return [] if self.patterns else list(self.words)


class TriggerSearch:
    """Searches an output for a trigger.

    Attributes:
      word_found: Whether the output contains a text of Triggers.needed.
    """

    def __init__(self, triggers: Triggers) -> None:
        self._words = [word.encode() for word in triggers.needed]
        self._patterns = triggers.compiled
        self._tail = b""
        self.word_found = not self._words
        self._reasoning = Reasoning(triggers.reasoning)
        self._text = bytearray()  # without reasoning

    def read(self, piece: bytes) -> bytes | None:
        """Add a token's text. Returns its part from the trigger on; None: no trigger yet."""
        if not self.word_found:
            self._find_word(piece)
        was_reasoning = self._reasoning.is_open
        self._reasoning.read(piece)
        # The token that ends reasoning is part of it.
        if was_reasoning or self._reasoning.is_open:
            return None
        begin = max(0, len(self._text) - _N_SEARCHED)
        self._text += piece
        for pattern in self._patterns:
            found = pattern.search(self._text, begin)
            if found is not None:
                groups = (found.start(i) for i in range(1, pattern.groups + 1) if found.group(i))
                return bytes(self._text[next(groups, found.start()) :])
        return None

    def _find_word(self, piece: bytes) -> None:
        """Mirrors Constraint::is_triggered_by of the core."""
        self._tail += piece
        self.word_found = any(word in self._tail for word in self._words)
        self._tail = self._tail[-max(map(len, self._words)) :]


def _compiled(pattern: str) -> re.Pattern[bytes]:
    """Compile with std::regex semantics: $ matches only at the end of the text."""
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1] + r"\Z"
    return re.compile(pattern.encode())
