"""Regular expressions of schemas: without lookaround where it can be expressed otherwise."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_EMAIL = (  # z.email() of zod 4
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
    r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)
_DURATION = (  # z.iso.duration() of zod 4
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?"
    r"(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
)
_TIME = r"T(?:\d+H(?:\d+M)?(?:\d+(?:[.,]\d+)?S)?|\d+M(?:\d+(?:[.,]\d+)?S)?|\d+(?:[.,]\d+)?S)"
_DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"  # Decimal of pydantic 2
# Expressions of schemas that libraries generate, and equivalent ones without lookaround.
_EQUIVALENTS = {
    _EMAIL: (
        r"^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]"
        r"@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    ),
    _DURATION: (
        r"^P(?:\d+W|(?:\d+Y(?:\d+M)?(?:\d+D)?|\d+M(?:\d+D)?|\d+D)"
        rf"(?:{_TIME})?|{_TIME})$"
    ),
    _DECIMAL: r"^[+-]?(?:\d+\.?\d*|\.\d+)$",
}
_MAX_CHARS = 4_096
_END = 256


def without_lookaround(pattern: str) -> list[str]:
    """Patterns that match together what a pattern matches. Lookahead is removed at the beginning
    only, and in expressions that are known."""
    if pattern in _EQUIVALENTS:
        return [_EQUIVALENTS[pattern]]
    ahead = []
    rest = pattern[1:]
    while pattern.startswith("^") and rest.startswith("(?=") and len(pattern) <= _MAX_CHARS:
        end = _group_end(rest)
        if end is None:
            return [pattern]
        ahead.append(f"^(?:{rest[3:end]})")
        rest = rest[end + 1 :]
    if not ahead or _has_top_alternative(rest) or rest[:1] in ("*", "+", "?", "{"):
        return [pattern]
    return [*ahead, f"^{rest}"]


def _group_end(text: str) -> int | None:
    """Index of the parenthesis that closes the group at the beginning; None: there is none."""
    for at, depth, char in _structure(text):
        if char == ")" and depth == 0:
            return at
    return None


def _has_top_alternative(text: str) -> bool:
    return any(char == "|" and depth == 0 for _, depth, char in _structure(text))


def _structure(text: str) -> list[tuple[int, int, str]]:
    """Parentheses and bars outside of escapes and classes: index, depth and character."""
    found = []
    depth = 0
    in_class = escaped = False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char in "()|":
            depth -= char == ")"
            found.append((at, depth, char))
            depth += char == "("
    return found


def matches(pattern: str, name: str) -> bool | None:
    """Whether a pattern matches within a name, as llguidance decides; None: it cannot decide."""
    from llguidance import LLMatcher, LLParserLimits

    if not name.isprintable():
        return None
    schema = {"type": "string", "pattern": pattern}
    matcher = LLMatcher(
        _byte_tokenizer(),
        LLMatcher.grammar_from_json_schema(schema),
        log_level=0,
        limits=LLParserLimits(
            initial_lexer_fuel=50_000,
            step_lexer_fuel=50_000,
            max_lexer_states=5_000,
            precompute_large_lexemes=False,
            verbose_errors=False,
        ),
    )
    if matcher.is_error():
        # An error is also reported for a pattern that matches nothing.
        return None
    text = list(json.dumps(name, ensure_ascii=False).encode())
    n_taken = matcher.try_consume_tokens(text)
    return None if matcher.is_error() else n_taken == len(text) and matcher.is_accepting()


class _Bytes:
    """llguidance's tokenizer interface: one token for each byte."""

    eos_token_id = _END
    bos_token_id = None
    tokens = [bytes([byte]) for byte in range(256)] + [b"\xff<end>"]
    special_token_ids = (_END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@lru_cache(maxsize=1)
def _byte_tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=_END + 1, eos_token=[_END])
