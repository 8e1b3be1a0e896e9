"""Rules made ready: compiled by llguidance, once for each distinct text."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.bounded_pool import BoundedPool, PoolFullError
from llamaherd.structured_output.gbnf.lark import to_lark
from llamaherd.structured_output.llguidance_tokenizer import make_tokenizer
from llamaherd.structured_output.rule import JSON_STYLE, Rule

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

T = TypeVar("T")

# Of rules made ready. One takes some hundred times the memory of its text.
_N_KEPT = 64
_MAX_KEPT_CHARS = 512 * 1024
_N_TOKENIZERS_KEPT = 4
_N_THREADS = 2
_MAX_WAITING = 64
_TIMEOUT_S = 20.0
# llguidance recurses as deep as rules refer to each other. What is not used costs nothing, and the
# rest is given back, as each rule has a thread of its own.
_STACK_BYTES = 512 * 1024 * 1024


def limits(kind: str, n_vocab: int) -> LLParserLimits:
    """Bounds of making a rule ready and of one mask, each of a few seconds at most."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=1_000,
        initial_lexer_fuel=400_000,
        step_lexer_fuel=100_000,
        # Free text takes some items for each token where each character is a terminal. Formats of
        # tools need more, but have no rules that take long for each item.
        step_max_items=max(50_000, (20 if kind == "tools" else 4) * n_vocab),
        max_lexer_states=20_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


@dataclass(frozen=True)
class Guide:
    """A rule made ready.

    Attributes:
      kind: The rule's.
      matcher: At the rule's beginning; to be copied.
      first_mask: Of the matcher.
      tokenizer: The matcher's.
      names: The text of each token, special ones by name.
    """

    kind: str
    matcher: LLMatcher
    first_mask: bytes
    tokenizer: LLTokenizer
    names: Sequence[bytes]


class Guides:
    """The rules of one engine, made ready on threads of their own.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(self, core: _core.BatchEngine) -> None:
        self._core = core
        self._n_vocab = int(core.model_info()["n_vocab"])
        self._pool = BoundedPool("rules", _N_THREADS, _MAX_WAITING)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Rule, Future[Guide]] = OrderedDict()
        self._tokenizers: OrderedDict[frozenset[int], Future[LLTokenizer]] = OrderedDict()

    def make(self, rule: Rule) -> Guide:
        """A rule made ready; of one that was used lately, or is being made ready, the same.

        Raises:
          InvalidRequestError: It does not parse, asks for what is not supported, or takes too much
            time or memory; the message says where or what.
          QueueFullError: As many rules wait to be made ready as may.
        """
        with self._lock:
            future = self._kept.get(rule)
            if future is None:
                future = self._pool.submit(lambda: _in_deep_thread(lambda: self._compile(rule)))
                self._keep(rule, future)
            self._kept.move_to_end(rule)
        wait([future], _TIMEOUT_S)
        if not future.done():
            if not future.running():
                raise PoolFullError(f"rules: none could be made ready within {_TIMEOUT_S:g} s")
            raise InvalidRequestError(
                f"{rule.kind} cannot be used: it was not ready within {_TIMEOUT_S:g} s"
            )
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, InvalidRequestError):
            # Not the same one for each caller: raising it adds to its traceback.
            raise InvalidRequestError(str(error))
        with self._lock:
            if self._kept.get(rule) is future:
                del self._kept[rule]
        raise error

    def _keep(self, rule: Rule, future: Future[Guide]) -> None:
        self._kept[rule] = future
        n_chars = sum(other.n_chars for other in self._kept)
        while len(self._kept) > _N_KEPT or (n_chars > _MAX_KEPT_CHARS and len(self._kept) > 1):
            oldest, _ = self._kept.popitem(last=False)
            n_chars -= oldest.n_chars

    def is_ready(self, rule: Rule) -> bool:
        """Whether `make` would return, or raise, at once."""
        with self._lock:
            future = self._kept.get(rule)
        return future is not None and future.done()

    def _compile(self, rule: Rule) -> Guide:
        from llguidance import LLMatcher

        try:
            grammar = self._grammar_of(rule)
        except ValueError as error:
            raise InvalidRequestError(f"{rule.kind} cannot be used: {error}") from None
        tokenizer = self._tokenizer(rule.special)
        matcher = LLMatcher(
            tokenizer, grammar, log_level=0, limits=limits(rule.kind, self._n_vocab)
        )
        if rule.prefix:
            matcher.consume_tokens(tokenizer.tokenize_bytes(rule.prefix.encode()))
        mask = mask_of(matcher, self._n_vocab)
        if mask is None:
            raise InvalidRequestError(f"{rule.kind} cannot be used: {error_of(matcher)}")
        return Guide(rule.kind, matcher, mask, tokenizer, self._names)

    def _grammar_of(self, rule: Rule) -> str:
        from llguidance import LLMatcher

        if rule.kind == "json_schema":
            style: Any = JSON_STYLE
            return LLMatcher.grammar_from_json_schema(rule.text, overrides=style)
        if rule.kind == "regex":
            return LLMatcher.grammar_from_regex(rule.text)
        lark = rule.text
        if rule.kind != "lark":
            lark = to_lark(lark, self._token_of, dict(rule.schemas))
        return LLMatcher.grammar_from_lark(lark)

    @cached_property
    def _names(self) -> Sequence[bytes]:
        return [self._core.token_name(token) for token in range(self._n_vocab)]

    def _token_of(self, name: str) -> int | None:
        tokens = self._core.tokenize(name, False, True)
        return tokens[0] if len(tokens) == 1 else None

    def _tokenizer(self, special: frozenset[int]) -> LLTokenizer:
        with self._lock:
            future = self._tokenizers.get(special)
            if future is not None:
                self._tokenizers.move_to_end(special)
            else:
                made: Future[LLTokenizer] = Future()
                self._tokenizers[special] = made
                if len(self._tokenizers) > _N_TOKENIZERS_KEPT:
                    self._tokenizers.popitem(last=False)
        if future is not None:
            return future.result()
        try:
            made.set_result(make_tokenizer(self._core, special))
        except BaseException as error:
            made.set_exception(error)
            with self._lock:
                self._tokenizers.pop(special, None)
            raise
        return made.result()


def mask_of(matcher: LLMatcher, n_vocab: int) -> bytes | None:
    """Which tokens may be next, of the bits of the vocabulary's words; None: the matcher failed."""
    if matcher.is_error():
        return None
    mask = matcher.compute_bitmask()  # of the vocabulary and one bit more
    return None if matcher.is_error() else mask[: (n_vocab + 31) // 32 * 4]


def error_of(matcher: LLMatcher) -> str:
    """What a matcher failed at."""
    return matcher.get_error().removesuffix("<non-verbose/>").rstrip()


def _in_deep_thread(call: Callable[[], T]) -> T:
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    with _stack_size_lock:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(target=run, name="rule", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    return future.result()


_stack_size_lock = threading.Lock()
