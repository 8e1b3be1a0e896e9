"""Token masks of running requests with output constraints."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property, partial
from typing import TYPE_CHECKING

from llamaherd import _core
from llamaherd._core import Delta, InvalidRequestError, LlamaHerdError
from llamaherd.bounded_pool import BoundedPool
from llamaherd.structured_output.constraint_errors import SIZE, keywords_of, sentence_of
from llamaherd.structured_output.guides import Guide, error_of, mask_of

if TYPE_CHECKING:
    from llguidance import LLMatcher

_logger = logging.getLogger("llamaherd.structured_output")
_ANY = b""  # the mask that allows any token
_N_THREADS = 2
_MAX_WAITING = 4096
# A request with a slower mask moves to the pool of slow masks.
_SLOW_S = 0.005
# CPU time limit for the masks of one output: a constant plus a time per mask. Requests that exceed
# it fail, because a request that waits for a mask occupies a sequence. Tool grammars are generated
# by llama.cpp, and some are slow.
_FIRST_S = 2.0
_MEAN_S = 0.02
_MEAN_OF_TOOLS_S = 0.5
# Bytes searched for a trigger; beyond, only ^ in a pattern refers to the beginning of the text.
_N_SEARCHED = 1024


@dataclass(frozen=True)
class Triggers:
    """Triggers: texts from which on a constraint applies. Before, all tokens are allowed.

    Attributes:
      words: Literal triggers.
      patterns: Regular expressions; the constraint applies from the first matching group, or from
        the whole match if there are no groups.
      thought_begin: Start of reasoning; no trigger is searched from here to one of thought_ends.
        Empty: no reasoning.
      thought_ends: Ends of reasoning.
      before: Generation prompt; it may contain the start of reasoning.
    """

    words: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    thought_begin: str = ""
    thought_ends: tuple[str, ...] = ()
    before: str = ""

    @classmethod
    def of(cls, grammar: _core.ToolGrammar) -> Triggers:
        """The triggers of a model's tool calls.

        Raises:
          InvalidRequestError: A pattern is invalid in Python.
        """
        triggers = cls(
            words=tuple(grammar.words),
            patterns=tuple(grammar.patterns),
            thought_begin=grammar.thought_begin,
            thought_ends=tuple(grammar.thought_ends),
            before=grammar.generation_prompt,
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


@dataclass(frozen=True)
class TriggeredGuide:
    """The compiled constraint of a request, and the triggers from which on it applies."""

    guide: Guide
    triggers: Triggers | None = None

    @property
    def first_mask(self) -> bytes | None:
        if self.triggers is None:
            return self.guide.first_mask
        return None if self.words else _ANY

    @property
    def words(self) -> list[str]:
        """Texts one of which every trigger contains; empty: unknown."""
        if self.triggers is None or self.triggers.patterns:
            return []
        return list(self.triggers.words)


class _Allowed(Enum):
    """Which next tokens of an output are allowed."""

    MASKED = auto()  # those of mask()
    ANY = auto()
    ANY_UNTRIGGERED = auto()  # any, and the core does not wait for a mask


class _BudgetError(InvalidRequestError):
    """Masks take too long or too much memory."""


class _Progress:
    """State of one output's constraint. take() and mask() are called alternately."""

    def __init__(self, obeyed: TriggeredGuide) -> None:
        self.is_slow = False
        self._guide = obeyed.guide
        self._matcher: LLMatcher | None = None  # copied on first use: many requests are queued
        self._taken: list[int] = []
        self._n_masks = 0
        self._spent_s = 0.0
        self._is_lifted = False  # the constraint no longer applies
        self._search = None if obeyed.triggers is None else _Search(obeyed)

    def take(self, token_ids: Sequence[int]) -> _Allowed:
        """Add output tokens."""
        for at, token in enumerate(token_ids):
            if self._search is None:
                self._taken += token_ids[at:]
                break
            begun = self._search.read(self._guide.names[token])
            if begun is not None:
                self._taken += self._guide.tokenizer.tokenize_bytes(begun)
                self._search = None
        if self._search is None:
            return _Allowed.MASKED
        return _Allowed.ANY if self._search.word_found else _Allowed.ANY_UNTRIGGERED

    def mask(self) -> bytes:
        """Compute the mask of the next token.

        Raises:
          InvalidRequestError: The matcher failed, or a limit is exceeded and the guide is strict.
        """
        if self._is_lifted:
            return _ANY
        try:
            return self._mask()
        except _BudgetError as error:
            if self._guide.is_strict:
                raise
            _logger.warning("an output continues without the schemas of its tools: %s", error)
            self._is_lifted = True
            self._matcher = None
            return _ANY

    def _mask(self) -> bytes:
        begin_s = time.thread_time()
        mask = self._compute()
        self._n_masks += 1
        took_s = time.thread_time() - begin_s
        self._spent_s += took_s
        self.is_slow = self.is_slow or took_s > _SLOW_S
        mean_s = _MEAN_OF_TOOLS_S if self._guide.kind == "tools" else _MEAN_S
        most_s = _FIRST_S + mean_s * self._n_masks
        if self._spent_s > most_s:
            raise _BudgetError(
                f"computing the masks of {self._n_masks} output tokens must take at most "
                f"{_FIRST_S:g} s + {mean_s:g} s per token; it took {self._spent_s:.1f} s: "
                "simplify the schema or grammar"
            )
        return mask

    def _compute(self) -> bytes:
        if self._matcher is None:
            self._matcher = self._guide.matcher.deep_copy()
        taken, self._taken = self._taken, []
        self._matcher.consume_tokens(taken)
        mask = mask_of(self._matcher, len(self._guide.names))
        if mask is None:
            error = error_of(self._matcher)
            _logger.warning("the output constraint failed: %s", error)
            kind = _BudgetError if SIZE in keywords_of(error) else InvalidRequestError
            raise kind(f"the output constraint failed: {sentence_of(error)}")
        return mask


class _Search:
    """Searches an output for a trigger."""

    def __init__(self, obeyed: TriggeredGuide) -> None:
        triggers = obeyed.triggers
        assert triggers is not None
        self._words = [word.encode() for word in obeyed.words]
        self._patterns = triggers.compiled
        self._tail = b""
        self.word_found = not self._words
        self._begin = triggers.thought_begin.encode()
        self._ends = tuple(end.encode() for end in triggers.thought_ends)
        self._n_tag = max(map(len, (self._begin, *self._ends)))
        self._reasoning_tail = b""
        self._is_reasoning = False
        self._track_reasoning(triggers.before.encode())
        self._text = bytearray()  # without reasoning

    def read(self, piece: bytes) -> bytes | None:
        """Add a token's text. Returns its part from the trigger on; None: no trigger yet."""
        if not self.word_found:
            self._find_word(piece)
        if self._begin:
            was_reasoning = self._is_reasoning
            self._track_reasoning(piece)
            # The token that ends reasoning is part of it.
            if was_reasoning or self._is_reasoning:
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

    def _track_reasoning(self, text: bytes) -> None:
        if not self._begin:
            return
        for char in text:
            self._reasoning_tail = (self._reasoning_tail + bytes([char]))[-self._n_tag :]
            if self._is_reasoning:
                self._is_reasoning = not self._reasoning_tail.endswith(self._ends)
            else:
                self._is_reasoning = self._reasoning_tail.endswith(self._begin)


def _reason(error: Exception) -> str:
    """The error of a failed request: the message of an expected error only."""
    if isinstance(error, LlamaHerdError):
        return str(error)
    _logger.error("unexpected error while computing a token mask", exc_info=error)
    return "an internal error occurred while computing a token mask"


def _compiled(pattern: str) -> re.Pattern[bytes]:
    """Compile with std::regex semantics: $ matches only at the end of the text."""
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1] + r"\Z"
    return re.compile(pattern.encode())


class TokenMasks:
    """Computes the masks of one engine's running requests with output constraints.

    Masks are computed in parallel with the model's forward pass and passed to the core, which
    samples.

    Args:
      core: Receives the masks.
      threaded: Compute masks on separate threads; False: in advance().

    Thread safety:
      One call of start() or of() at a time; one of advance() at a time, in the order of of().
    """

    def __init__(self, core: _core.BatchEngine, *, threaded: bool) -> None:
        self._core = core
        self._running: dict[int, _Progress] = {}
        self._pool = self._slow_pool = None
        if threaded:
            self._pool = BoundedPool("masks", _N_THREADS, _MAX_WAITING)
            self._slow_pool = BoundedPool("slow masks", _N_THREADS, _MAX_WAITING)

    def start(self, request_ids: Iterable[int], obeyed: TriggeredGuide) -> None:
        """Register submitted requests, before their first delta is processed."""
        for request_id in request_ids:
            self._running[request_id] = _Progress(obeyed)

    def of(self, deltas: Iterable[Delta]) -> list[tuple[_Progress, Delta]]:
        """The deltas of constrained requests. Finished requests are removed."""
        found = []
        for delta in deltas if self._running else ():
            if delta.finish_reason is not None:
                self._running.pop(delta.request_id, None)
            elif progress := self._running.get(delta.request_id):
                found.append((progress, delta))
        return found

    def advance(self, found: Iterable[tuple[_Progress, Delta]]) -> None:
        """Compute the next mask of each request that has new tokens."""
        for progress, delta in found:
            self._advance(progress, delta)

    def _advance(self, progress: _Progress, delta: Delta) -> None:
        request_id, index = delta.request_id, delta.n_completion
        try:
            allowed = progress.take(delta.token_ids)
            if allowed is _Allowed.ANY:
                self._core.set_mask(request_id, index, _ANY)
            if allowed is not _Allowed.MASKED:
                return
            make = partial(self._make, progress, request_id, index)
            pool = self._slow_pool if progress.is_slow else self._pool
            if pool is None:
                make()
            else:
                pool.submit(make)
        except Exception as error:  # any error fails this request only
            self._core.fail_mask(request_id, _reason(error))

    def _make(self, progress: _Progress, request_id: int, index: int) -> None:
        try:
            self._core.set_mask(request_id, index, progress.mask())
        except Exception as error:  # any error fails this request only
            self._core.fail_mask(request_id, _reason(error))
