"""GBNF converted to Lark matches the same texts."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from gbnf_reference import Reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamaherd import InvalidRequestError
from llamaherd.structured_output.gbnf.lark import to_lark
from llamaherd.structured_output.gbnf.parser import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    MAX_RULES,
    parse,
)
from llamaherd.structured_output.guides import limits
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

EOS = 256
TOKENS = {"<eos>": EOS, "<tool>": 257, "<ab>": 258}
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value   # a comment
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4})
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


class _Bytes:
    """A vocabulary of bytes, two special tokens, and "ab"."""

    def __init__(self) -> None:
        self.eos_token_id = EOS
        self.bos_token_id = None
        self.tokens = [bytes([i]) for i in range(256)] + [b"\xff<eos>", b"\xff<tool>", b"ab"]
        self.special_token_ids = [EOS, 257]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=259, eos_token=[EOS])


def matcher_of(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    lark = to_lark(grammar, TOKENS.get)
    matcher = LLMatcher(
        tokenizer, LLMatcher.grammar_from_lark(lark), log_level=0, limits=limits("grammar", 259)
    )
    assert not matcher.is_error(), matcher.get_error()
    return matcher


class TooAmbiguous(Exception):
    """A grammar has more derivations of a text than the matcher's limit."""


def accepts(matcher: LLMatcher, tokens: list[int]) -> bool:
    matcher = matcher.deep_copy()
    n_consumed = matcher.try_consume_tokens(tokens)
    if matcher.is_error():
        assert "Current row has" in matcher.get_error(), matcher.get_error()
        raise TooAmbiguous(matcher.get_error())
    return n_consumed == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("grammar", "matched", "unmatched"),
    [
        (JSON, ['{"a": [1, -2.5e3,\n "x\\n\\u00e4ö"], "b": null}', "{}"], ['{"a":}', "[]", ""]),
        ('root ::= ("a" | "ab") "bc"', ["abc", "abbc"], ["ab", "ac", "abcc"]),
        ('root ::= [a-c]* "ab" root?', ["ab", "cabab", "abcab"], ["a", "abc"]),
        ('root ::= root "a" | "b"', ["b", "baaa"], ["a", "ab"]),
        ('root ::= x root | y\nx ::= "a" y?\ny ::= "b" | "c" root', ["ab", "abaacb", "cb"], ["a"]),
        ('root ::= "<" a ">"\na ::= [^-] a | "-" b | ""\nb ::= [^-] a | ""', ["<a-b->"], ["<-->"]),
        ('root ::= "ab"* "c" | ', ["", "c", "ababc"], ["ab", "abac"]),
        (r'root ::= "\x41\u00e4\U0001F600\t\"\\\[\]"', ['Aä😀\t"\\[]'], ["A"]),
        (r"root ::= [\x41-C\-\]] [^a-zß] . [a-]", ["AA\n-", "]ä😀a", "-\"'a"], ["DAAa", "AßAa"]),
        ('root ::= "a"{2} [b]{1,2} ("c" "d"){0,1} "e"{2,}', ["aabee", "aabbcdeee"], ["abee"]),
        ('root ::= "a"{0} "b"', ["b"], ["ab"]),
        ('root ::= ( "a" |\n  "b" ) # c\n\n\nx ::= "unused"', ["a", "b"], ["c"]),
        ('root ::= a-b | "x" a-b\r\na-b ::=\n "y"\r\n', ["y", "xy"], ["x"]),
        ('root ::= "a" ("b" | dead) dead*\ndead ::= "x" dead', ["ab"], ["a", "ax"]),
        ('root ::= a | root "x"\na ::= "ö"+', ["ö", "ööxx"], ["", "x"]),
    ],
)
def test_what_is_matched(
    tokenizer: LLTokenizer, grammar: str, matched: list[str], unmatched: list[str]
) -> None:
    matcher = matcher_of(tokenizer, grammar)
    for text in matched:
        assert accepts(matcher, list(text.encode())), text
    for text in unmatched:
        assert not accepts(matcher, list(text.encode())), text


def test_tokens_by_name_and_id(tokenizer: LLTokenizer) -> None:
    a, b = ord("a"), ord("b")
    matcher = matcher_of(tokenizer, 'root ::= "a" <tool> !<[257]> <ab>* ')
    assert accepts(matcher, [a, 257, b])
    assert accepts(matcher, [a, 257, b, 258, 258])
    assert not accepts(matcher, [a, 257, 257])
    assert not accepts(matcher, [a, 257, b, a, b])


_ATOMS = st.sampled_from(
    ['"a"', '"b"', '"ab"', '"aba"', '""', "[ab]", "[^a]", ".", "one", "two", "root", '"c"']
)
_EXPRESSIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' | '.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)
_TEXTS = ["".join(t) for n in range(5) for t in itertools.product("ab", repeat=n)]
_TEXTS += ["abc", "c", "cab", "aca", "babab", "abaab"]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(root=_EXPRESSIONS, one=_EXPRESSIONS, two=_EXPRESSIONS)
def test_any_grammar_matches_what_it_says(
    tokenizer: LLTokenizer, root: str, one: str, two: str
) -> None:
    grammar = f"root ::= {root}\none ::= {one}\ntwo ::= {two}"
    reference = Reference(grammar)
    try:
        matcher = matcher_of(tokenizer, grammar)
    except InvalidRequestError:
        assert not any(reference.accepts(text) for text in _TEXTS)
        return
    for text in _TEXTS:
        try:
            is_accepted = accepts(matcher, list(text.encode()))
        except TooAmbiguous:
            continue
        assert is_accepted == reference.accepts(text), text


def test_a_grammar_of_too_many_derivations_is_an_error_not_a_mismatch(
    tokenizer: LLTokenizer,
) -> None:
    grammar = "root ::= (one | one | one*)*\none ::= two+ (root | root)\ntwo ::= [ab]*"
    with pytest.raises(TooAmbiguous, match="max is 1000"):
        accepts(matcher_of(tokenizer, grammar), list(b"babab"))


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('root ::= "a" ~ "b"', r"expecting newline or end at line 1, column 14: '~ \"b\"'"),
        ('root ::= "a"\nx ::= ("b" |\n  [c-', "unexpected end of input at line 3, column 6"),
        ('root ::= ("a"\n "b"', "expecting '\\)' at line 2, column 5"),
        ('root := "a"', "expecting ::= at line 1, column 6"),
        ("= x", "expecting name at line 1, column 1: '= x'"),
        ("root ::= x", "rule x is used but not defined"),
        ('rot ::= "a"', "no rule named root"),
        ('root ::= "a\0"', "zero bytes at line 1, column 12"),
        ('root ::= "a"{3,1}', "a repetition needs min <= max; got 3,1 at line 1, column 13"),
        ('root ::= "a"{2001}', "a repetition count must be <= 2000"),
        ('root ::= "a"{99999999999999999999}', "a repetition count must be <= 2000"),
        ('root ::= "a"{,2}', "expecting an integer"),
        ("root ::= *", "expecting preceding item"),
        ("root ::= [z-a]", "a range must be in ascending order at line 1, column 11"),
        ("root ::= []", "a character class must not be empty"),
        ("root ::= [^\\x00-\\U0010FFFF]", "a character class must not be empty"),
        ('root ::= "\\q"', "unknown escape at line 1, column 11"),
        ('root ::= "\\x4"', "expecting 2 hex digits"),
        ('root ::= "\\uD800"', r"U\+D800 must not occur in text"),
        ('root ::= "\\U00110000"', r"U\+110000 is not a Unicode character"),
        ("root ::= <nothing>", "unknown token at line 1, column 10"),
        ("root ::= <[x]>", r"expecting a token's id as <\[id\]>"),
        ("root ::= <tool", "expecting a token as"),
        ("root ::= " + "(" * 20_000, f"parentheses must be at most {MAX_DEPTH} deep"),
        ("".join(f"r{i} ::= root\n" for i in range(MAX_RULES + 1)), f"at most {MAX_RULES} rules"),
        ("root ::= " + " a" * (MAX_NODES + 1), f"at most {MAX_NODES} elements"),
        (" " * (MAX_BYTES + 1), f"grammar must have at most {MAX_BYTES} bytes; got"),
        ('root ::= "a" root', "its rule root matches no text"),
    ],
)
def test_what_is_no_grammar_is_refused_by_place(grammar: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        to_lark(grammar, TOKENS.get)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='root:=|()[]{}*+?."\\-^<>!,0123ax \n#', max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert "root" in parse("root ::= " + text, TOKENS.get)
