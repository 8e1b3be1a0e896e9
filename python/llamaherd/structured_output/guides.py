"""Compilation of output constraints by llguidance, once per distinct constraint."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.bounded_pool import BoundedPool, PoolFullError
from llamaherd.structured_output.enforcement import enforceable, reduced, refusal
from llamaherd.structured_output.gbnf.lark import to_lark
from llamaherd.structured_output.llguidance_tokenizer import make_tokenizer
from llamaherd.structured_output.rule import JSON_STYLE, MarkedSchema, Rule

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

T = TypeVar("T")

# Cache of compiled constraints. One takes about a hundred times the memory of its text.
_N_KEPT = 64
_MAX_KEPT_CHARS = 512 * 1024
_N_TOKENIZERS_KEPT = 4
_N_THREADS = 2
_MAX_WAITING = 64
_TIMEOUT_S = 20.0
# llguidance's recursion depth equals the nesting of rules. Unused stack takes no memory, and each
# compilation has its own thread, which releases it.
_STACK_BYTES = 512 * 1024 * 1024


def limits(kind: str, n_vocab: int) -> LLParserLimits:
    """Limits for compilation and for one mask, equivalent to a few seconds each."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=1_000,
        initial_lexer_fuel=400_000,
        step_lexer_fuel=100_000,
        # Where each character is a terminal, free text takes several items per token. Tool
        # grammars need more, but have no rules with expensive items.
        step_max_items=max(50_000, (20 if kind == "tools" else 4) * n_vocab),
        max_lexer_states=20_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


@dataclass(frozen=True)
class Guide:
    """A compiled constraint.

    Attributes:
      kind: Kind of the Rule.
      matcher: In its initial state; must be copied before use.
      first_mask: Mask of the initial state.
      tokenizer: Tokenizer of the matcher.
      names: Text of each token; special tokens by name.
      unenforced: Pairs of a tool's name and a keyword of its schema that is not enforced.
      is_strict: An output fails if its masks exceed a limit; else it continues unconstrained.
    """

    kind: str
    matcher: LLMatcher
    first_mask: bytes
    tokenizer: LLTokenizer
    names: Sequence[bytes]
    unenforced: tuple[tuple[str, str], ...] = ()
    is_strict: bool = True


class GuideCache:
    """Compiles and caches the output constraints of one engine, on its own threads.

    Attributes:
      n_vocab: Tokens of the vocabulary.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(self, core: _core.BatchEngine) -> None:
        self._core = core
        self.n_vocab = int(core.model_info()["n_vocab"])
        self._pool = BoundedPool("rules", _N_THREADS, _MAX_WAITING)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Rule, Future[Guide]] = OrderedDict()
        self._tokenizers: OrderedDict[frozenset[int], Future[LLTokenizer]] = OrderedDict()

    def make(self, rule: Rule) -> Guide:
        """Compile a rule. Equal rules that are cached or being compiled are shared.

        Raises:
          InvalidRequestError: The rule does not parse, uses an unsupported feature, or exceeds a
            time or memory limit; the message states the reason.
          QueueFullError: Too many rules are waiting for compilation.
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
                raise PoolFullError(
                    f"rules: no compilation thread was free within {_TIMEOUT_S:g} s; retry later"
                )
            raise InvalidRequestError(
                f"{rule.kind} cannot be used: compilation took over {_TIMEOUT_S:g} s; simplify it"
            )
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, InvalidRequestError):
            # A new object per caller: raising adds to an exception's traceback.
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
        """Whether the result of `make` is available, so that it returns or raises immediately."""
        with self._lock:
            future = self._kept.get(rule)
        return future is not None and future.done()

    def _compile(self, rule: Rule) -> Guide:
        tokenizer = self._tokenizer(rule.special)
        used: Rule | None = rule
        if rule.schemas:
            used = enforceable(rule, limits(rule.kind, self.n_vocab))
        while used is not None:
            matcher = self._matcher_of(used, tokenizer)
            mask = mask_of(matcher, self.n_vocab)
            if mask is not None:
                pairs = [(s.tool, keyword) for s in used.schemas for keyword in s.unenforced]
                return Guide(
                    rule.kind,
                    matcher,
                    mask,
                    tokenizer,
                    self._names,
                    tuple(dict.fromkeys(pairs)),
                    rule.kind != "tools" or not all(s.otherwise for s in rule.schemas),
                )
            used = reduced(used, partial(self._compiles, tokenizer))
        raise refusal(rule.kind, "", error_of(matcher))

    def _matcher_of(self, rule: Rule, tokenizer: LLTokenizer) -> LLMatcher:
        from llguidance import LLMatcher

        try:
            grammar = self._grammar_of(rule)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{rule.kind} cannot be used: {error}") from None
        except ValueError as error:
            raise refusal(rule.kind, "", str(error)) from None
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits(rule.kind, self.n_vocab))
        if rule.prefix:
            # By bytes: the model's tokenizer finds special tokens that literals do not match.
            matcher.consume_tokens(tokenizer.greedy_tokenize(rule.prefix))
        return matcher

    def _compiles(self, tokenizer: LLTokenizer, schema: MarkedSchema) -> bool:
        matcher = self._matcher_of(
            Rule("tools", f"root ::= {json.dumps(schema.mark)}", (schema,)), tokenizer
        )
        return mask_of(matcher, self.n_vocab) is not None

    def _grammar_of(self, rule: Rule) -> str:
        from llguidance import LLMatcher

        if rule.kind == "json_schema":
            style: Any = JSON_STYLE
            return LLMatcher.grammar_from_json_schema(rule.text, overrides=style)
        if rule.kind == "regex":
            return LLMatcher.grammar_from_regex(rule.text)
        lark = rule.text
        if rule.kind != "lark":
            schemas = {schema.mark: schema.text for schema in rule.schemas}
            lark = to_lark(lark, self._token_of, schemas, rule.alternatives)
        return LLMatcher.grammar_from_lark(lark)

    @cached_property
    def _names(self) -> Sequence[bytes]:
        return [self._core.token_name(token) for token in range(self.n_vocab)]

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
    """Bit mask of the allowed next tokens, in 32-bit words; None: the matcher failed."""
    if matcher.is_error():
        return None
    mask = matcher.compute_bitmask()  # has one bit more than the vocabulary
    return None if matcher.is_error() else mask[: (n_vocab + 31) // 32 * 4]


def error_of(matcher: LLMatcher) -> str:
    """llguidance's error message of a failed matcher."""
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
