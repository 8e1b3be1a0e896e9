"""Parser of llama.cpp's GBNF."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llamaherd._core import InvalidRequestError
from llamaherd.structured_output.gbnf.nodes import (
    EMPTY,
    Alt,
    Chars,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    Token,
)

MAX_BYTES = 256 * 1024
MAX_RULES = 4_000
MAX_NODES = 40_000
MAX_DEPTH = 64  # of parentheses
MAX_REPEAT = 2_000

_N_SHOWN = 40  # characters of the grammar shown in an error

_WORD = frozenset(string.ascii_letters + string.digits + "-")
_LAST_CHAR = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_ESCAPES = {"t": 9, "r": 13, "n": 10, **{c: ord(c) for c in '\\"[]-'}}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}


_ANY = Chars(((1, _LAST_CHAR),))


def parse(text: str, token_of: Callable[[str], int | None]) -> Rules:
    """Parse a grammar into rules by name. Contains root and all referenced rules.

    Args:
      text: The grammar.
      token_of: Id of a token by its name, such as <|im_end|>; None: unknown token.

    Raises:
      InvalidRequestError: The grammar does not parse or is too large; the message states the place.
    """
    n_bytes = len(text.encode(errors="surrogatepass"))
    if n_bytes > MAX_BYTES:
        raise InvalidRequestError(f"grammar must have at most {MAX_BYTES} bytes; got {n_bytes}")
    return _Parser(text, token_of).parse()


@dataclass
class _Frame:
    """An open parenthesis or rule."""

    options: list[Node]
    items: list[Node]


class _Parser:
    def __init__(self, text: str, token_of: Callable[[str], int | None]) -> None:
        self._text = text + "\0"  # terminator; grammars with zero bytes are rejected
        self._token_of = token_of
        self._at = 0
        self._n_nodes = 0
        self._used: dict[str, None] = {}

    def parse(self) -> Rules:
        zero = self._text.index("\0")
        if zero < len(self._text) - 1:
            raise self._error("grammars must not contain zero bytes", zero)
        rules: Rules = {}
        self._skip_space(newlines=True)
        while self._peek() != "\0":
            name = self._name()
            self._skip_space()
            if self._text[self._at : self._at + 3] != "::=":
                raise self._error("expecting ::=")
            self._at += 3
            self._skip_space(newlines=True)
            rules[name] = self._alternatives()
            if len(rules) > MAX_RULES:
                raise self._error(f"a grammar must have at most {MAX_RULES} rules")
            self._skip_space(newlines=True)
        if "root" not in rules:
            raise self._error("it has no rule named root", None)
        for name in self._used:
            if name not in rules:
                raise self._error(f"rule {name} is used but not defined", None)
        return rules

    def _alternatives(self) -> Node:
        """Parse to the end of a rule."""
        frames = [_Frame([], [])]
        while True:
            frame = frames[-1]
            nested = len(frames) > 1
            c = self._peek()
            if c == "|":
                self._at += 1
                self._skip_space(newlines=True)
                frame.options.append(_seq(frame.items))
                frame.items = []
            elif c == "(":
                self._at += 1
                if len(frames) > MAX_DEPTH:
                    raise self._error(f"parentheses must be at most {MAX_DEPTH} deep")
                self._skip_space(newlines=True)
                frames.append(_Frame([], []))
            elif c == ")" and nested:
                self._at += 1
                frames.pop()
                frames[-1].items.append(_alt([*frame.options, _seq(frame.items)]))
                self._skip_space(newlines=len(frames) > 1)
            elif c in "*+?{":
                self._repetition(frame.items, nested)
            elif c in '"[<!.' or c in _WORD:
                frame.items.append(self._element())
                self._skip_space(newlines=nested)
            elif nested:
                raise self._error("expecting ')'")
            elif c not in "\r\n\0":
                raise self._error("expecting newline or end")
            else:
                return _alt([*frame.options, _seq(frame.items)])
            self._n_nodes += 1
            if self._n_nodes > MAX_NODES:
                raise self._error(f"a grammar must have at most {MAX_NODES} elements")

    def _element(self) -> Node:
        c = self._peek()
        if c == '"':
            return self._literal()
        if c == "[":
            return self._char_class()
        if c in "<!":
            return self._token()
        if c == ".":
            self._at += 1
            return _ANY
        name = self._name()
        self._used[name] = None
        return Ref(name)

    def _literal(self) -> Node:
        self._at += 1
        chars: list[Node] = []
        while self._peek() != '"':
            place = self._at
            chars.append(self._written(self._char(), place))
        self._at += 1
        return _seq(chars)

    def _char_class(self) -> Node:
        begin = self._at
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        ranges = []
        while self._peek() != "]":
            place = self._at
            first = last = self._char()
            if self._peek() == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                last = self._char()
            if last < first:
                raise self._error("a range must be in ascending order", place)
            ranges.append((first, last))
        self._at += 1
        chars = _without(ranges)
        if not negated:
            chars = _without(chars.ranges)
        if not chars.ranges:
            raise self._error("a character class must not be empty", begin)
        return chars

    def _char(self) -> int:
        place = self._at
        c = self._peek()
        if c == "\0":
            raise self._error("unexpected end of input")
        self._at += 1
        value = ord(c)
        if c == "\\":
            kind = self._peek()
            self._at += 1
            if kind in _HEX_ESCAPES:
                n = _HEX_ESCAPES[kind]
                digits = self._text[self._at : self._at + n]
                if len(digits) < n or not set(digits) <= set(string.hexdigits):
                    raise self._error(f"expecting {n} hex digits")
                self._at += n
                value = int(digits, 16)
            elif kind in _ESCAPES:
                value = _ESCAPES[kind]
            else:
                raise self._error("unknown escape", place)
        if value > _LAST_CHAR:
            raise self._error(f"U+{value:X} is not a Unicode character", place)
        return value

    def _written(self, char: int, place: int) -> Chars:
        if char == 0 or _SURROGATES[0] <= char <= _SURROGATES[1]:
            raise self._error(f"U+{char:04X} must not occur in text", place)
        return Chars(((char, char),))

    def _token(self) -> Token:
        negated = self._peek() == "!"
        self._at += negated
        place = self._at
        end = self._text.find(">", place)
        name = self._text[place : end + 1]
        if not name.startswith("<") or end < 0:
            raise self._error("expecting a token as <name> or <[id]>", place)
        if name.startswith("<["):
            digits = name[2:-2]
            if not name.endswith("]>") or not digits.isdecimal() or len(digits) > 9:
                raise self._error("expecting a token's id as <[id]>", place)
            token = int(digits)
        else:
            found = self._token_of(name)
            if found is None:
                raise self._error("unknown token", place)
            token = found
        self._at = end + 1
        return Token(token, negated)

    def _repetition(self, items: list[Node], nested: bool) -> None:
        place = self._at
        if not items:
            raise self._error("expecting preceding item to */+/?/{")
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek(), (0, 0))
        self._at += 1
        if most == 0:
            self._skip_space(newlines=nested)
            least = self._count(place)
            most = least
            self._skip_space(newlines=nested)
            if self._peek() == ",":
                self._at += 1
                self._skip_space(newlines=nested)
                most = self._count(place) if self._peek() != "}" else None
                self._skip_space(newlines=nested)
            if self._peek() != "}":
                raise self._error("expecting '}'")
            self._at += 1
            if most is not None and most < least:
                raise self._error(f"a repetition needs min <= max; got {least},{most}", place)
        self._skip_space(newlines=nested)
        items[-1] = EMPTY if most == 0 else Repeat(items[-1], least, most)

    def _count(self, place: int) -> int:
        begin = self._at
        while self._peek() in string.digits:
            self._at += 1
        digits = self._text[begin : self._at]
        if not digits:
            raise self._error("expecting an integer")
        if len(digits.lstrip("0")) > 9 or int(digits) > MAX_REPEAT:
            raise self._error(f"a repetition count must be <= {MAX_REPEAT}", place)
        return int(digits)

    def _name(self) -> str:
        begin = self._at
        while self._peek() in _WORD:
            self._at += 1
        if self._at == begin:
            raise self._error("expecting name")
        return self._text[begin : self._at]

    def _peek(self) -> str:
        return self._text[self._at]

    def _skip_space(self, *, newlines: bool = False) -> None:
        while self._peek() in (" \t\r\n" if newlines else " \t") or self._peek() == "#":
            if self._peek() == "#":
                while self._peek() not in "\r\n\0":
                    self._at += 1
            else:
                self._at += 1

    def _error(self, why: str, at: int | None = -1) -> InvalidRequestError:
        """An error at an index, by default the current one; None: without a place."""
        if at is None:
            return InvalidRequestError(f"grammar does not parse: {why}")
        at = self._at if at == -1 else at
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        shown = self._text[at : at + _N_SHOWN].partition("\n")[0].partition("\0")[0]
        return InvalidRequestError(
            f"grammar does not parse: {why} at line {line}, column {column}: '{shown}'"
        )


def _seq(items: list[Node]) -> Node:
    return items[0] if len(items) == 1 else Seq(tuple(items))


def _alt(options: list[Node]) -> Node:
    return options[0] if len(options) == 1 else Alt(tuple(options))


def _without(ranges: Iterable[tuple[int, int]]) -> Chars:
    """All valid characters outside these ranges."""
    left = []
    begin = 1
    for first, last in sorted([*ranges, _SURROGATES]):
        if begin < first:
            left.append((begin, first - 1))
        begin = max(begin, last + 1)
    if begin <= _LAST_CHAR:
        left.append((begin, _LAST_CHAR))
    return Chars(tuple(left))
