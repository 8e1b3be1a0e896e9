"""Finds terminals for which a greedy lexer would match too much."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from llamaherd.structured_output.gbnf.nodes import (
    Alt,
    Chars,
    Json,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    Terminal,
    children,
    nodes_of,
    users_of,
)

_MAX_STEPS = 400_000  # of the conflict search
_JSON_BEGINS = '{["-0123456789tfn'


class TooManyStepsError(Exception):
    """The conflict search exceeds its step limit."""


class Lexing:
    """Finds terminals for which a greedy lexer matches more than the grammar allows.

    Character sets are bit masks over classes of characters that occur in the same sets.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        edges = {ord(c) + i for c in _JSON_BEGINS for i in (0, 1)}
        for rule in rules.values():
            for node in nodes_of(rule):
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
            raise TooManyStepsError

    def conflicts(self, bodies: Rules, terminals: list[Terminal]) -> set[Node]:
        """Expressions that must be split into smaller terminals. Never a single character.

        Raises:
          TooManyStepsError: The step limit is exceeded.
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
        """Character sets that can follow each terminal."""
        self._first_of: dict[str, tuple[int, bool]] = dict.fromkeys(bodies, (0, False))
        users = users_of(bodies)
        left = list(bodies)
        while left:
            name = left.pop()
            first = self._first(bodies[name])
            if first != self._first_of[name]:
                self._first_of[name] = first
                left += users[name]
        self._after_terminal = [0] * len(terminals)
        self._after_rule: dict[str, int | None] = dict.fromkeys(bodies)
        self._after_rule["root"] = 0
        self._grown = ["root"]
        while self._grown:
            name = self._grown.pop()
            self._walk(bodies[name], self._after_rule[name] or 0)
        return self._after_terminal

    def _first(self, node: Node) -> tuple[int, bool]:
        """The FIRST set of a node, and whether it is nullable."""
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


class _Positions:
    """Glushkov positions of terminals. Repetition counts are treated as unbounded."""

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
        self.first_of: list[int] = []  # FIRST set by terminal
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
        """First and last positions, and whether the node is nullable."""
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
        """Pairs of positions reachable by the same text, within or across terminals."""
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
