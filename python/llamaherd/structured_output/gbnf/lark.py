"""Converts GBNF to llguidance's Lark.

llguidance's lexer is greedy: a terminal that can continue also matches text of its successor. An
expression becomes a terminal only if this cannot change the language. Otherwise its characters
become terminals, which is slower.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence

from llamaherd._core import InvalidRequestError
from llamaherd.structured_output.gbnf.heads import with_heads_joined
from llamaherd.structured_output.gbnf.lexing import Lexing, TooManyStepsError
from llamaherd.structured_output.gbnf.nodes import (
    EMPTY,
    Alt,
    Chars,
    Json,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    Terminal,
    Token,
    alt,
    refs,
    users_of,
)
from llamaherd.structured_output.gbnf.parser import parse
from llamaherd.structured_output.gbnf.recursion import without_right_recursion
from llamaherd.structured_output.gbnf.regular import Regulars

_MAX_ROUNDS = 12  # of splitting expressions; beyond, every character becomes a terminal
# llguidance's own limit is slightly higher.
_MAX_PARENTHESES = 16

_PLAIN = frozenset(string.ascii_letters + string.digits)


def to_lark(
    text: str,
    token_of: Callable[[str], int | None],
    schemas: Mapping[str, str] | None = None,
    alternatives: Sequence[str] = (),
) -> str:
    """Convert a grammar; the language does not change.

    Args:
      text: GBNF; its start rule is root.
      token_of: Id of a token by its name, such as <|im_end|>; None: unknown token.
      schemas: JSON schemas, as JSON, by the literal that each one replaces.
      alternatives: Further grammars; the result matches the texts of any of them.

    Raises:
      InvalidRequestError: The grammar does not parse, is too large, or matches no text; the message
        states the place or the reason.
    """
    rules = parse(text, token_of)
    if alternatives:
        rules = _any_of([rules, *(parse(other, token_of) for other in alternatives)])
    if schemas:
        rules = {name: _with_schemas(node, schemas) for name, node in rules.items()}
    return _Writer(without_right_recursion(_productive(rules))).write()


# Recursion depth is bounded: nodes are nested at most MAX_DEPTH parentheses deep.


def _any_of(grammars: Sequence[Rules]) -> Rules:
    """The rules of several grammars; root matches the root of any of them."""
    joined: Rules = {"root": Alt(tuple(Ref(f"{i}:root") for i in range(len(grammars))))}
    for i, rules in enumerate(grammars):
        for name, node in rules.items():
            joined[f"{i}:{name}"] = _with_prefix(node, f"{i}:")
    return joined


def _with_prefix(node: Node, prefix: str) -> Node:
    if isinstance(node, Ref):
        return Ref(prefix + node.name)
    if isinstance(node, Alt):
        return Alt(tuple(_with_prefix(option, prefix) for option in node.options))
    if isinstance(node, Repeat):
        return Repeat(_with_prefix(node.item, prefix), node.least, node.most)
    if isinstance(node, Seq):
        return Seq(tuple(_with_prefix(item, prefix) for item in node.items))
    return node


def _with_schemas(node: Node, schemas: Mapping[str, str]) -> Node:
    if isinstance(node, Alt):
        return Alt(tuple(_with_schemas(option, schemas) for option in node.options))
    if isinstance(node, Repeat):
        return Repeat(_with_schemas(node.item, schemas), node.least, node.most)
    if not isinstance(node, Seq):
        return node
    schema = schemas.get(_text_of(node))
    if schema is not None:
        return Json(schema)
    return Seq(tuple(_with_schemas(item, schemas) for item in node.items))


def _text_of(node: Seq) -> str:
    """The text of a literal; empty for other expressions."""
    chars = []
    for item in node.items:
        if not isinstance(item, Chars) or item.ranges[0][0] != item.ranges[-1][1]:
            return ""
        chars.append(chr(item.ranges[0][0]))
    return "".join(chars)


def _productive(rules: Rules) -> Rules:
    """Remove expressions that match no text, and unused rules."""
    known: set[str] = set()
    users = users_of(rules)
    left = list(rules)
    while left:
        name = left.pop()
        if name not in known and _keep(rules[name], known) is not None:
            known.add(name)
            left += users[name]
    if "root" not in known:
        raise InvalidRequestError("grammar cannot be used: its rule root matches no text")
    kept: Rules = {}
    left = ["root"]
    while left:
        name = left.pop()
        if name in kept:
            continue
        node = _keep(rules[name], known)
        assert node is not None
        kept[name] = node
        left += [ref.name for ref in refs(node)]
    return kept


def _keep(node: Node, known: set[str]) -> Node | None:
    """The node reduced to the known rules; None: it matches no text with these."""
    if isinstance(node, Ref):
        return node if node.name in known else None
    if isinstance(node, Seq):
        items = [_keep(item, known) for item in node.items]
        present = tuple(item for item in items if item is not None)
        return None if len(present) < len(items) else Seq(present) if present else EMPTY
    if isinstance(node, Alt):
        options = [kept for option in node.options if (kept := _keep(option, known)) is not None]
        return alt(options) if options else None
    if isinstance(node, Repeat):
        item = _keep(node.item, known)
        if item is None:
            return EMPTY if node.least == 0 else None
        return Repeat(item, node.least, node.most)
    return node


class _Writer:
    def __init__(self, rules: Rules) -> None:
        self._regulars = Regulars(rules)
        self._rules = with_heads_joined(rules, self._regulars.can_be_terminal)
        self._split: set[Node] = set()  # expressions that cannot be terminals
        self._only_chars = False
        self._runs: dict[tuple[Node, int, int], Node] = {}  # by sequence and item range
        self._regexes: dict[Node, str] = {}
        self._terminals: dict[str, Terminal] = {}  # by regex
        self._bodies: Rules = {}  # over terminals

    def write(self) -> str:
        self._lower_all()
        lexing = Lexing(self._rules)
        try:
            for _ in range(_MAX_ROUNDS):
                conflicts = lexing.conflicts(self._bodies, list(self._terminals.values()))
                if not conflicts:
                    return self._text()
                self._split |= conflicts
                self._lower_all()
        except TooManyStepsError:
            pass
        self._only_chars = True
        self._lower_all()
        return self._text()

    def _is_terminal(self, node: Node) -> bool:
        if isinstance(node, Chars):
            return True
        if self._only_chars or node is EMPTY or node in self._split:
            return False
        return self._regulars.can_be_terminal(node)

    def _lower_all(self) -> None:
        self._terminals, self._bodies = {}, {}
        left = ["root"]
        while left:
            name = left.pop()
            if name not in self._bodies:
                self._bodies[name] = body = self._lower(self._rules[name])
                left += [ref.name for ref in refs(body)]

    def _lower(self, node: Node) -> Node:
        if self._is_terminal(node):
            return self._terminal(node)
        if isinstance(node, Alt):
            return Alt(tuple(self._lower(option) for option in node.options))
        if isinstance(node, Repeat):
            return Repeat(self._lower(node.item), node.least, node.most)
        if isinstance(node, Seq):
            return Seq(tuple(self._lower(item) for item in self._grouped(node)))
        return node

    def _grouped(self, node: Seq) -> Iterator[Node]:
        """The items of a sequence; adjacent terminals are merged if the result is a terminal."""
        begin = 0
        while begin < len(node.items):
            end = begin
            while end < len(node.items) and self._is_terminal(node.items[end]):
                end += 1
            if end - begin > 1 and (begin, end) != (0, len(node.items)):
                run = self._runs.setdefault((node, begin, end), Seq(node.items[begin:end]))
                if self._is_terminal(run):
                    yield run
                    begin = end
                    continue
            end = max(end, begin + 1)
            yield from node.items[begin:end]
            begin = end

    def _terminal(self, node: Node) -> Terminal:
        regex = self._regexes.get(node)
        if regex is None:
            regex = self._regexes[node] = _regex(node, self._rules)
        known = self._terminals.get(regex)
        if known is None:
            nullable = self._regulars.is_nullable(node)
            known = self._terminals[regex] = Terminal(len(self._terminals), node, nullable)
        return known

    def _text(self) -> str:
        return _Lark(self._bodies, self._terminals).text()


class _Lark:
    """Formats rules over terminals as Lark."""

    def __init__(self, bodies: Rules, terminals: Mapping[str, Terminal]) -> None:
        self._bodies = bodies
        self._terminals = terminals
        self._names = {name: f"r{i}" for i, name in enumerate(bodies)}
        self._schemas: dict[str, str] = {}
        self._nested: list[str] = []

    def text(self) -> str:
        lines = ["%llguidance {}", f"start: {self._names['root']}"]
        for name, body in self._bodies.items():
            lines.append(f"{self._names[name]}: {self._expression(body, 0)}")
        lines += self._nested
        for regex, terminal in self._terminals.items():
            more_than_nothing = " & /(?s:.)+/" if terminal.nullable else ""
            lines.append(f"T{terminal.index}: /{regex}/{more_than_nothing}")
        lines += [f"{name}: %json {schema}" for schema, name in self._schemas.items()]
        return "\n".join(lines) + "\n"

    def _expression(self, node: Node, depth: int) -> str:
        if isinstance(node, Terminal):
            return f"T{node.index}?" if node.nullable else f"T{node.index}"
        if isinstance(node, Ref):
            return self._names[node.name]
        if isinstance(node, Token):
            return f"<[{'^' if node.negated else ''}{node.id}]>"
        if isinstance(node, Json):
            return self._schemas.setdefault(node.schema, f"j{len(self._schemas)}")
        if isinstance(node, Seq):
            return " ".join(self._expression(item, depth) for item in node.items) or '""'
        if depth >= _MAX_PARENTHESES:
            rule = f"n{len(self._nested)}"
            self._nested.append("")
            self._nested[int(rule[1:])] = f"{rule}: {self._expression(node, 0)}"
            return rule
        if isinstance(node, Alt):
            return "(" + " | ".join(self._expression(o, depth + 1) for o in node.options) + ")"
        assert isinstance(node, Repeat)
        most = "" if node.most is None else node.most
        return f"({self._expression(node.item, depth + 1)}){{{node.least},{most}}}"


def _regex(node: Node, rules: Rules) -> str:
    if isinstance(node, Chars):
        first, last = node.ranges[0][0], node.ranges[-1][1]
        if first == last:
            return _regex_char(first)
        return "[" + "".join(f"{_regex_char(a)}-{_regex_char(b)}" for a, b in node.ranges) + "]"
    if isinstance(node, Ref):
        return _regex(rules[node.name], rules)
    if isinstance(node, Seq):
        return "".join(_regex(item, rules) for item in node.items)
    if isinstance(node, Alt):
        return "(?:" + "|".join(_regex(option, rules) for option in node.options) + ")"
    assert isinstance(node, Repeat)
    most = "" if node.most is None else node.most
    return f"(?:{_regex(node.item, rules)}){{{node.least},{most}}}"


def _regex_char(char: int) -> str:
    return chr(char) if chr(char) in _PLAIN else f"\\u{{{char:X}}}"
