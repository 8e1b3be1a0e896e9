"""GBNF as llguidance's Lark.

llguidance's lexer is greedy: a terminal that can go on takes what should follow it. An expression
becomes one terminal only where that cannot change the language; elsewhere characters are terminals,
which is slower.
"""

from __future__ import annotations

import string
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from llamaherd._core import InvalidRequestError
from llamaherd.gbnf import (
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
    children,
    parse,
    refs,
)
from llamaherd.gbnf_heads import with_heads_joined
from llamaherd.gbnf_recursion import without_right_recursion

# Of an expression that is one terminal, with the rules that it uses written out.
_MAX_TERMINAL_NODES = 2_000
_MAX_TERMINAL_DEPTH = 100
# Of looking for larger terminals; beyond them, every character is one.
_MAX_STEPS = 400_000
_MAX_ROUNDS = 12
# llguidance allows some more within each other.
_MAX_PARENTHESES = 16

_PLAIN = frozenset(string.ascii_letters + string.digits)
_JSON_BEGINS = '{["-0123456789tfn'


def to_lark(
    text: str,
    token_of: Callable[[str], int | None],
    schemas: Mapping[str, str] | None = None,
) -> str:
    """A Lark grammar of the same language.

    Args:
      text: GBNF; the rule root is matched.
      token_of: Id of the token of a name such as <|im_end|>; None: there is none.
      schemas: JSON schemas, in JSON, by the literals that stand for values that obey them.

    Raises:
      InvalidRequestError: It does not parse, is too large, or matches no text; the message says
        where or what.
    """
    rules = parse(text, token_of)
    if schemas:
        rules = {name: _with_schemas(node, schemas) for name, node in rules.items()}
    return _Writer(without_right_recursion(_productive(rules))).write()


# Nodes are at most MAX_DEPTH parentheses deep: recursion is safe.


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
    """Empty: it is no literal."""
    chars = []
    for item in node.items:
        if not isinstance(item, Chars) or item.ranges[0][0] != item.ranges[-1][1]:
            return ""
        chars.append(chr(item.ranges[0][0]))
    return "".join(chars)


def _productive(rules: Rules) -> Rules:
    """Without what matches no text, and what root does not use."""
    known: set[str] = set()
    users = _users(rules)
    left = list(rules)
    while left:
        name = left.pop()
        if name not in known and _keep(rules[name], known) is not None:
            known.add(name)
            left += users.get(name, ())
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
    """None: it matches no text if only these rules do."""
    if isinstance(node, Ref):
        return node if node.name in known else None
    if isinstance(node, Seq):
        items = [_keep(item, known) for item in node.items]
        present = tuple(item for item in items if item is not None)
        return None if len(present) < len(items) else Seq(present) if present else EMPTY
    if isinstance(node, Alt):
        options = [kept for option in node.options if (kept := _keep(option, known)) is not None]
        return None if not options else options[0] if len(options) == 1 else Alt(tuple(options))
    if isinstance(node, Repeat):
        item = _keep(node.item, known)
        if item is None:
            return EMPTY if node.least == 0 else None
        return Repeat(item, node.least, node.most)
    return node


def _users(rules: Rules) -> dict[str, set[str]]:
    users: dict[str, set[str]] = {}
    for name, node in rules.items():
        for ref in refs(node):
            users.setdefault(ref.name, set()).add(name)
    return users


@dataclass(frozen=True)
class _Regular:
    """An expression that uses no rule that uses itself, with its rules written out."""

    n_nodes: int
    depth: int
    nullable: bool

    @property
    def is_small(self) -> bool:
        return self.n_nodes <= _MAX_TERMINAL_NODES and self.depth <= _MAX_TERMINAL_DEPTH


def _regular_rules(rules: Rules) -> dict[str, _Regular]:
    """The small ones."""
    found: dict[str, _Regular] = {}
    n_left = {name: len({ref.name for ref in refs(node)}) for name, node in rules.items()}
    users = _users(rules)
    left = [name for name, n in n_left.items() if n == 0]
    while left:
        name = left.pop()
        regular = _regular(rules[name], found, {})
        if regular is None or not regular.is_small:
            continue
        found[name] = regular
        for user in users.get(name, ()):
            n_left[user] -= 1
            if n_left[user] == 0:
                left.append(user)
    return found


_Known: TypeAlias = "dict[Node, _Regular | None]"


def _regular(node: Node, rules: Mapping[str, _Regular], known: _Known) -> _Regular | None:
    """None: it is not."""
    if node not in known:
        known[node] = _find_regular(node, rules, known)
    return known[node]


def _find_regular(node: Node, rules: Mapping[str, _Regular], known: _Known) -> _Regular | None:
    if isinstance(node, Chars):
        return _Regular(1, 1, False)
    if isinstance(node, Ref):
        return rules.get(node.name)
    if isinstance(node, Token | Json | Terminal):
        return None
    parts = []
    for child in children(node):
        part = _regular(child, rules, known)
        if part is None:
            return None
        parts.append(part)
    nullable = [part.nullable for part in parts]
    return _Regular(
        1 + sum(part.n_nodes for part in parts),
        1 + max((part.depth for part in parts), default=0),
        any(nullable)
        if isinstance(node, Alt)
        else all(nullable) or (isinstance(node, Repeat) and node.least == 0),
    )


class _TooManySteps(Exception):
    pass


class _Writer:
    def __init__(self, rules: Rules) -> None:
        self._regular_rules = _regular_rules(rules)
        self._known: _Known = {}
        self._rules = with_heads_joined(rules, self._is_small_regular)
        self._split: set[Node] = set()  # expressions that are no terminals
        self._only_chars = False
        self._runs: dict[tuple[Node, int, int], Node] = {}  # of items of a sequence
        self._regexes: dict[Node, str] = {}
        self._terminals: dict[str, Terminal] = {}  # by regex
        self._bodies: Rules = {}  # over terminals

    def write(self) -> str:
        self._lower_all()
        lexing = _Lexing(self._rules)
        try:
            for _ in range(_MAX_ROUNDS):
                conflicts = lexing.conflicts(self._bodies, list(self._terminals.values()))
                if not conflicts:
                    return self._text()
                self._split |= conflicts
                self._lower_all()
        except _TooManySteps:
            pass
        self._only_chars = True
        self._lower_all()
        return self._text()

    def _is_terminal(self, node: Node) -> bool:
        if isinstance(node, Chars):
            return True
        if self._only_chars or node is EMPTY or node in self._split:
            return False
        return self._is_small_regular(node)

    def _is_small_regular(self, node: Node) -> bool:
        regular = _regular(node, self._regular_rules, self._known)
        return regular is not None and regular.is_small

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
        """Its items, neighbours of which each could be a terminal as one."""
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
            regular = _regular(node, self._regular_rules, self._known)
            nullable = regular is not None and regular.nullable
            known = self._terminals[regex] = Terminal(len(self._terminals), node, nullable)
        return known

    def _text(self) -> str:
        return _Lark(self._bodies, self._terminals).text()


class _Lark:
    """Writes rules over terminals."""

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


class _Lexing:
    """Finds terminals that a greedy lexer matches longer than the grammar asks for.

    Sets of characters are bit masks of classes that no set of the grammar tells apart.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        edges = {ord(c) + i for c in _JSON_BEGINS for i in (0, 1)}
        for rule in rules.values():
            for node in _nodes(rule):
                if isinstance(node, Chars):
                    edges.update(edge for a, b in node.ranges for edge in (a, b + 1))
        self._edges = sorted(edges)
        self._json = self._mask([(ord(c), ord(c)) for c in _JSON_BEGINS])
        self._steps = 0

    def _mask(self, ranges: Sequence[tuple[int, int]]) -> int:
        mask = 0
        for first, last in ranges:
            mask |= (1 << bisect_left(self._edges, last + 1)) - (
                1 << bisect_left(self._edges, first)
            )
        return mask

    def _count(self, n: int = 1) -> None:
        self._steps += n
        if self._steps > _MAX_STEPS:
            raise _TooManySteps

    def conflicts(self, bodies: Rules, terminals: list[Terminal]) -> set[Node]:
        """Expressions that must be taken apart; a single character is never one.

        Raises:
          _TooManySteps: It would take too long to tell.
        """
        self._positions = _Positions(self._rules, self._mask, self._count)
        for terminal in terminals:
            self._positions.add(terminal)
        follow = self._follow(bodies, terminals)
        if not any(follow):
            return set()
        found: set[int] = set()
        positions = self._positions
        for p, q in positions.pairs():
            self._count()
            owner = positions.owner[p]
            if positions.is_last[p] and positions.next_chars[q] & follow[owner]:
                found |= {owner, positions.owner[q]}
        nodes = {terminal.node for terminal in terminals if terminal.index in found}
        return {node for node in nodes if not isinstance(node, Chars)}

    def _follow(self, bodies: Rules, terminals: list[Terminal]) -> list[int]:
        """What characters may come after each terminal."""
        self._first_of: dict[str, tuple[int, bool]] = dict.fromkeys(bodies, (0, False))
        users = _users(bodies)
        left = list(bodies)
        while left:
            name = left.pop()
            first = self._first(bodies[name])
            if first != self._first_of[name]:
                self._first_of[name] = first
                left += users.get(name, ())
        self._after_terminal = [0] * len(terminals)
        self._after_rule: dict[str, int | None] = dict.fromkeys(bodies)
        self._after_rule["root"] = 0
        self._grown = ["root"]
        while self._grown:
            name = self._grown.pop()
            self._walk(bodies[name], self._after_rule[name] or 0)
        return self._after_terminal

    def _first(self, node: Node) -> tuple[int, bool]:
        """Characters that it may begin with, and whether it may be empty."""
        self._count()
        if isinstance(node, Terminal):
            return self._positions.first_of[node.index], node.nullable
        if isinstance(node, Ref):
            return self._first_of[node.name]
        if isinstance(node, Json):
            return self._json, False
        if isinstance(node, Repeat):
            mask, nullable = self._first(node.item)
            return mask, nullable or node.least == 0
        mask = 0
        if isinstance(node, Seq):
            for item in node.items:
                more, nullable = self._first(item)
                mask |= more
                if not nullable:
                    return mask, False
            return mask, True
        firsts = [self._first(option) for option in children(node)]
        for more, _ in firsts:
            mask |= more
        return mask, any(nullable for _, nullable in firsts)

    def _walk(self, node: Node, after: int) -> None:
        self._count()
        if isinstance(node, Terminal):
            self._after_terminal[node.index] |= after
        elif isinstance(node, Ref):
            known = self._after_rule[node.name]
            if known is None or after & ~known:
                self._after_rule[node.name] = after | (known or 0)
                self._grown.append(node.name)
        elif isinstance(node, Repeat):
            again = 0 if node.most == 1 else self._first(node.item)[0]
            self._walk(node.item, after | again)
        elif isinstance(node, Seq):
            for item in reversed(node.items):
                self._walk(item, after)
                first, nullable = self._first(item)
                after = first | (after if nullable else 0)
        else:
            for option in children(node):
                self._walk(option, after)


def _nodes(node: Node) -> Iterator[Node]:
    left = [node]
    while left:
        node = left.pop()
        yield node
        left += children(node)


class _Positions:
    """Characters of terminals, and which may come after which. A count stands for any count."""

    def __init__(
        self,
        rules: Rules,
        mask: Callable[[Sequence[tuple[int, int]]], int],
        count: Callable[[int], None],
    ) -> None:
        self._rules = rules
        self._mask = mask
        self._count = count
        self.owner: list[int] = []  # index of the terminal
        self.is_last: list[bool] = []
        self.next_chars: list[int] = []
        self.first_of: list[int] = []  # characters that a terminal begins with
        self._chars: list[int] = []
        self._next: list[set[int]] = []
        self._first: list[int] = []  # positions

    def add(self, terminal: Terminal) -> None:
        begin = len(self._chars)
        first, last, _ = self._add(terminal.node)
        n = len(self._chars) - begin
        self.owner += [terminal.index] * n
        self.is_last += [False] * n
        for p in last:
            self.is_last[p] = True
        self.next_chars += [self._any(self._next[p]) for p in range(begin, begin + n)]
        self.first_of.append(self._any(first))
        self._first += first

    def _any(self, positions: Iterable[int]) -> int:
        mask = 0
        for p in positions:
            mask |= self._chars[p]
        return mask

    def _add(self, node: Node) -> tuple[list[int], list[int], bool]:
        """First and last positions, and whether it may be empty."""
        self._count(1)
        if isinstance(node, Chars):
            self._chars.append(self._mask(node.ranges))
            self._next.append(set())
            return [len(self._chars) - 1], [len(self._chars) - 1], False
        if isinstance(node, Ref):
            return self._add(self._rules[node.name])
        if isinstance(node, Repeat):
            first, last, nullable = self._add(node.item)
            if node.most != 1:
                self._link(last, first)
            return first, last, nullable or node.least == 0
        first, last, nullable = [], [], isinstance(node, Seq)
        for child in children(node):
            child_first, child_last, child_nullable = self._add(child)
            if isinstance(node, Alt):
                first, last = first + child_first, last + child_last
                nullable = nullable or child_nullable
                continue
            self._link(last, child_first)
            first = first + child_first if nullable else first
            last = last + child_last if child_nullable else child_last
            nullable = nullable and child_nullable
        return first, last, nullable

    def _link(self, froms: list[int], tos: list[int]) -> None:
        self._count(len(froms) * len(tos))
        for p in froms:
            self._next[p].update(tos)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Positions that one text leads to, of the same or of different terminals."""
        seen: set[tuple[int, int]] = set()
        left = [(self._first, self._first)]
        while left:
            ps, qs = left.pop()
            self._count(len(ps) * len(qs))
            for p in ps:
                for q in qs:
                    if self._chars[p] & self._chars[q] and (p, q) not in seen:
                        seen.add((p, q))
                        left.append((list(self._next[p]), list(self._next[q])))
                        yield p, q
