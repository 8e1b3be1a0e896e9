"""Output that obeys a schema, an expression or a grammar."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamaherd import _core, json_schema
from llamaherd._core import Delta, InvalidRequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Options of SamplingParams, of which one may be set.
KINDS = ("json_schema", "json_object", "regex", "choice", "lark", "grammar")

# JSON as json.dumps() writes it: free blanks are what small models never stop writing.
_JSON_STYLE: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
_N_KEPT = 128
_SPECIAL = b"\xff"  # what llguidance knows a special token's name by


@dataclass(frozen=True)
class Rule:
    """What an output must obey: a kind, and its text."""

    kind: str
    text: str


def rule_of(options: Mapping[str, Any]) -> Rule | None:
    """The rule among options of SamplingParams, by their names.

    Raises:
      InvalidRequestError: There are two, or one is not what it should be.
      TypeError: One is of the wrong type.
    """
    off = {"json_object": False}
    given = [kind for kind in KINDS if options[kind] is not off.get(kind)]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequestError(f"only one of {', '.join(KINDS)} may be set; got {given}")
    kind, value = given[0], options[given[0]]
    if kind == "json_object":
        if value is not True:  # False is not given
            raise TypeError(f"json_object must be a bool; got {value!r}")
        return Rule("json_schema", '{"type": "object"}')
    if kind == "json_schema":
        return Rule(kind, _schema_text(value))
    if kind == "choice":
        return Rule("lark", _lark_choice(value))
    if not isinstance(value, str):
        raise TypeError(f"{kind} must be a str; got {value!r}")
    return Rule(kind, value)


def _schema_text(schema: Any) -> str:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise InvalidRequestError(f"json_schema is not valid JSON: {error}") from None
    if not isinstance(schema, Mapping | bool):
        raise TypeError(f"json_schema must be a mapping, a bool or their JSON; got {schema!r}")
    try:
        # Through text: what is simplified holds JSON's own types and no cycles.
        simple = json_schema.simplify(json.loads(json.dumps(schema)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"json_schema must hold JSON values: {error}") from None
    if simple is False:
        raise InvalidRequestError("json_schema allows no value")
    return json.dumps({} if simple is True else simple)


def _lark_choice(choices: Any) -> str:
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise TypeError(f"choice must be a sequence of str; got {choices!r}")
    if not choices or not all(isinstance(text, str) and text for text in choices):
        raise InvalidRequestError(f"choice must hold texts that are not empty; got {choices!r}")
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choices)


@dataclass(frozen=True)
class Guide:
    """A rule made ready for one prompt: a matcher and its first mask, or a grammar of the core."""

    matcher: LLMatcher | None
    first_mask: bytes | None
    constraint: _core.Constraint | None


class Guides:
    """The rules of one engine, and where running requests stand in theirs.

    The core samples; what a token may be is found out beside it, while the model computes the next
    step, and handed over as a mask. GBNF is the core's own affair.

    Thread safety:
      make() and start() may be called from any thread, advance() from one.
    """

    def __init__(self, core: _core.BatchEngine) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._n_vocab = int(core.model_info()["n_vocab"])
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[Rule, Guide] = OrderedDict()
        self._running: dict[int, LLMatcher] = {}

    def make(self, rule: Rule) -> Guide:
        """A rule made ready; of one that was used lately, again.

        Raises:
          InvalidRequestError: It does not parse, or asks for what is not supported; the message
            says where or what.
        """
        with self._lock:
            guide = self._kept.get(rule)
            if guide is not None:
                self._kept.move_to_end(rule)
                return guide
            if rule.kind == "grammar":
                parsed = self._core.parse_grammar(rule.text)
                guide = Guide(None, None, parsed)
            else:
                guide = self._match(rule)
            self._kept[rule] = guide
            if len(self._kept) > _N_KEPT:
                self._kept.popitem(last=False)
            return guide

    def _match(self, rule: Rule) -> Guide:
        from llguidance import LLMatcher

        if self._tokenizer is None:
            self._tokenizer = _tokenizer_of(self._core, self._n_vocab)
        to_grammar: dict[str, Callable[[str], str]] = {
            "json_schema": lambda text: LLMatcher.grammar_from_json_schema(
                text, overrides=_JSON_STYLE
            ),
            "regex": LLMatcher.grammar_from_regex,
            "lark": LLMatcher.grammar_from_lark,
        }
        try:
            grammar = to_grammar[rule.kind](rule.text)
        except ValueError as error:
            raise InvalidRequestError(f"{rule.kind} cannot be used: {error}") from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        mask = self._mask_of(matcher)
        if mask is None:
            raise InvalidRequestError(f"{rule.kind} cannot be used: {matcher.get_error()}")
        return Guide(matcher, mask, None)

    def _mask_of(self, matcher: LLMatcher) -> bytes | None:
        """None: the matcher has failed."""
        if matcher.is_error():
            return None
        mask = matcher.compute_bitmask()  # of the vocabulary and one bit more
        n_words = (self._n_vocab + 31) // 32
        return None if matcher.is_error() else mask[: 4 * n_words]

    def start(self, request_ids: Iterable[int], guide: Guide) -> None:
        """These requests were submitted with the guide's first mask, and no delta of theirs has
        been looked at."""
        if guide.matcher is None:
            return
        for request_id in request_ids:
            self._running[request_id] = guide.matcher.deep_copy()

    def advance(self, deltas: Iterable[Delta]) -> None:
        """Hand the core the next mask of each request that has gained a token."""
        if not self._running:
            return
        for delta in deltas:
            matcher = self._running.get(delta.request_id)
            if matcher is None:
                continue
            if delta.finish_reason is not None:
                del self._running[delta.request_id]
                continue
            matcher.consume_tokens(delta.token_ids)
            mask = self._mask_of(matcher)
            if mask is None:
                self._core.fail_mask(delta.request_id, matcher.get_error())
            else:
                self._core.set_mask(delta.request_id, delta.n_completion, mask)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, core: _core.BatchEngine, n_vocab: int, ending: Sequence[int]) -> None:
        self._core = core
        self.eos_token_id = ending[0] if ending else 0
        self.bos_token_id = None
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        for token in range(n_vocab):
            piece = core.token_bytes(token)
            if not piece:
                self.special_token_ids.append(token)
                piece = _SPECIAL + core.detokenize([token], True).encode()
            self.tokens.append(piece)

    def __call__(self, text: bytes) -> list[int]:
        return self._core.tokenize(text.decode(errors="replace"), False, False)


def _tokenizer_of(core: _core.BatchEngine, n_vocab: int) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    ending = core.end_of_generation()
    wrapper = TokenizerWrapper(_Vocabulary(core, n_vocab, ending))
    return LLTokenizer(wrapper, n_vocab=n_vocab, eos_token=ending)
