"""Token masks of running requests with output constraints."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

from llamaherd import _core
from llamaherd._core import Delta, InvalidRequestError, LlamaHerdError
from llamaherd.bounded_pool import BoundedPool
from llamaherd.structured_output.constraint_errors import SIZE, keywords_of, sentence_of
from llamaherd.structured_output.guides import Guide, error_of, mask_of
from llamaherd.structured_output.reasoning_budget import BudgetedReasoning, ReasoningBudget
from llamaherd.structured_output.triggers import Triggers, TriggerSearch

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


@dataclass(frozen=True)
class OutputConstraint:
    """The constraint of a request's output.

    Attributes:
      n_vocab: Tokens of the vocabulary.
      guide: Compiled rule; None: there is none.
      triggers: From where on the guide applies; None: from the beginning.
      budget: Limit of reasoning; None: there is none.
    """

    n_vocab: int
    guide: Guide | None = None
    triggers: Triggers | None = None
    budget: ReasoningBudget | None = None

    @property
    def first_mask(self) -> bytes | None:
        """Mask of the first token; None: no mask is needed until one of `words` is output."""
        if self.budget is not None:
            forced = BudgetedReasoning(self.budget).forced
            if forced is not None:
                return _only(forced, self.n_vocab)
        if self.guide is not None and self.triggers is None:
            return self.guide.first_mask
        return None if self.words else _ANY

    @property
    def words(self) -> list[str]:
        """Texts one of which is output before a mask is needed; empty: masks are always needed."""
        if self.triggers is None or self.budget is not None:
            return []
        return self.triggers.needed


class _Next(Enum):
    """What the core needs for the next token of an output."""

    MASK = auto()
    ANY = auto()  # the mask that allows any token
    NOTHING = auto()  # it does not wait for a mask
    LIFT = auto()  # no further masks


class _BudgetError(InvalidRequestError):
    """Masks take too long or too much memory."""


class _Progress:
    """State of one output's constraint. take() and mask() are called alternately."""

    def __init__(self, constraint: OutputConstraint, core: _core.BatchEngine) -> None:
        self.is_slow = False
        self._core = core
        self._n_vocab = constraint.n_vocab
        self._guide = constraint.guide
        self._matcher: LLMatcher | None = None  # copied on first use: many requests are queued
        self._taken: list[int] = []
        self._n_masks = 0
        self._spent_s = 0.0
        budget, triggers = constraint.budget, constraint.triggers
        self._reasoning = None if budget is None else BudgetedReasoning(budget)
        self._search = None if triggers is None else TriggerSearch(triggers)

    def take(self, token_ids: Sequence[int]) -> _Next:
        """Add output tokens."""
        if self._reasoning is not None:
            for token in token_ids:
                self._reasoning.read(token, self._core.token_name(token))
        self._guide_along(token_ids)
        if self._reasoning is not None and self._reasoning.forced is not None:
            return _Next.MASK
        if self._guide is None:
            is_over = self._reasoning is None or self._reasoning.is_over
            return _Next.LIFT if is_over else _Next.ANY
        if self._search is None:
            return _Next.MASK
        waits = self._search.word_found or self._reasoning is not None
        return _Next.ANY if waits else _Next.NOTHING

    def _guide_along(self, token_ids: Sequence[int]) -> None:
        if self._guide is None:
            return
        for at, token in enumerate(token_ids):
            if self._search is None:
                self._taken += token_ids[at:]
                return
            begun = self._search.read(self._guide.names[token])
            if begun is not None:
                self._taken += self._guide.tokenizer.tokenize_bytes(begun)
                self._search = None

    def mask(self) -> bytes:
        """Compute the mask of the next token.

        Raises:
          InvalidRequestError: The matcher failed, or a limit is exceeded and the guide is strict.
        """
        if self._reasoning is not None and self._reasoning.forced is not None:
            return _only(self._reasoning.forced, self._n_vocab)
        assert self._guide is not None
        try:
            return self._guided(self._guide)
        except _BudgetError as error:
            if self._guide.is_strict:
                raise
            _logger.warning("an output continues without the schemas of its tools: %s", error)
            self._guide = self._matcher = None
            return _ANY

    def _guided(self, guide: Guide) -> bytes:
        begin_s = time.thread_time()
        mask = self._compute(guide)
        self._n_masks += 1
        took_s = time.thread_time() - begin_s
        self._spent_s += took_s
        self.is_slow = self.is_slow or took_s > _SLOW_S
        mean_s = _MEAN_OF_TOOLS_S if guide.kind == "tools" else _MEAN_S
        most_s = _FIRST_S + mean_s * self._n_masks
        if self._spent_s > most_s:
            raise _BudgetError(
                f"computing the masks of {self._n_masks} output tokens must take at most "
                f"{_FIRST_S:g} s + {mean_s:g} s per token; it took {self._spent_s:.1f} s: "
                "simplify the schema or grammar"
            )
        return mask

    def _compute(self, guide: Guide) -> bytes:
        if self._matcher is None:
            self._matcher = guide.matcher.deep_copy()
        taken, self._taken = self._taken, []
        self._matcher.consume_tokens(taken)
        mask = mask_of(self._matcher, self._n_vocab)
        if mask is None:
            error = error_of(self._matcher)
            _logger.warning("the output constraint failed: %s", error)
            kind = _BudgetError if SIZE in keywords_of(error) else InvalidRequestError
            raise kind(f"the output constraint failed: {sentence_of(error)}")
        return mask


def _only(token: int, n_vocab: int) -> bytes:
    """The mask that allows one token."""
    mask = bytearray((n_vocab + 31) // 32 * 4)
    mask[token >> 3] |= 1 << (token & 7)
    return bytes(mask)


def _reason(error: Exception) -> str:
    """The error of a failed request: the message of an expected error only."""
    if isinstance(error, LlamaHerdError):
        return str(error)
    _logger.error("unexpected error while computing a token mask", exc_info=error)
    return "an internal error occurred while computing a token mask"


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

    def start(self, request_ids: Iterable[int], constraint: OutputConstraint) -> None:
        """Register submitted requests, before their first delta is processed."""
        for request_id in request_ids:
            self._running[request_id] = _Progress(constraint, self._core)

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
            needed = progress.take(delta.token_ids)
            if needed is _Next.ANY:
                self._core.set_mask(request_id, index, _ANY)
            elif needed is _Next.LIFT:
                self._core.lift_mask(request_id)
                self._running.pop(request_id, None)
            if needed is not _Next.MASK:
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
