"""Joins unbounded text in GBNF with its terminator.

Text like [^<]* before a rule that begins with "<call>" cannot be a terminal alone, because a greedy
lexer would not stop at "<". Joined with "<call>" it can, if the text cannot contain "<".
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from llamaherd.structured_output.gbnf.nodes import (
    EMPTY,
    Alt,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    alt,
    children,
    nodes_of,
    seq,
)

_MAX_HEADS = 64
_MAX_DEPTH = 12  # of nested rules
_MAX_NODES = 1_000  # visited per text
_MAX_COPIED = 4_000  # nodes in total: each terminator is copied

_Head = tuple[Node, Node]


def with_heads_joined(rules: Rules, is_regular: Callable[[Node], bool]) -> Rules:
    """Join texts with their terminators; the language does not change.

    Args:
      rules: All used rules.
      is_regular: Whether an expression can be a terminal.
    """
    joiner = _Joiner(rules, is_regular)
    return {name: joiner.join(node) for name, node in rules.items()}


class _Joiner:
    def __init__(self, rules: Rules, is_regular: Callable[[Node], bool]) -> None:
        self._rules = rules
        self._is_regular = is_regular
        self._n_left = 0
        self._n_copied = 0

    def join(self, node: Node) -> Node:
        if self._is_regular(node):
            return node
        if isinstance(node, Alt):
            return Alt(tuple(self.join(option) for option in node.options))
        if isinstance(node, Repeat):
            return Repeat(self.join(node.item), node.least, node.most)
        if not isinstance(node, Seq):
            return node
        items: list[Node] = []
        run: list[Node] = []
        for item in node.items:
            if self._is_regular(item):
                run.append(item)
                continue
            joined = self._joined(run, item)
            items += [*run, self.join(item)] if joined is None else [joined]
            run = []
        return seq([*items, *run])

    def _joined(self, run: list[Node], item: Node) -> Node | None:
        """None: nothing to join."""
        self._n_left = _MAX_NODES
        if self._n_copied > _MAX_COPIED or not any(self._is_endless(part) for part in run):
            return None
        heads = self._heads(item, 0)
        if heads is None or all(head is EMPTY for head, _ in heads):
            return None
        self._n_copied += sum(_n_nodes(head) + _n_nodes(rest) for head, rest in heads)
        if self._n_copied > _MAX_COPIED:
            return None
        options = [seq([seq([*run, head]), rest]) for head, rest in heads]
        return alt(options)

    def _is_endless(self, node: Node) -> bool:
        left = [node]
        while left and self._n_left > 0:
            self._n_left -= 1
            at = left.pop()
            if isinstance(at, Repeat) and at.most is None:
                return True
            left += [self._rules[at.name]] if isinstance(at, Ref) else children(at)
        return False

    def _heads(self, node: Node, depth: int) -> list[_Head] | None:
        """The node as alternatives of (regular head, rest); None: too many."""
        self._n_left -= 1
        if depth > _MAX_DEPTH or self._n_left < 0:
            return None
        if self._is_regular(node):
            return [(node, EMPTY)]
        if isinstance(node, Ref):
            return self._heads(self._rules[node.name], depth + 1)
        if isinstance(node, Seq):
            irregular = (i for i, item in enumerate(node.items) if not self._is_regular(item))
            n = next(irregular, len(node.items))
            if n > 0:
                return [(seq(node.items[:n]), seq(node.items[n:]))]
            return self._before(self._heads(node.items[0], depth), seq(node.items[1:]))
        if isinstance(node, Repeat):
            most = None if node.most is None else node.most - 1
            again = EMPTY if most == 0 else Repeat(node.item, max(0, node.least - 1), most)
            heads = self._before(self._heads(node.item, depth), again)
            if heads is not None and node.least == 0:
                heads.append((EMPTY, EMPTY))
            return heads
        if isinstance(node, Alt):
            found: list[_Head] = []
            for option in node.options:
                heads = self._heads(option, depth)
                if heads is None or len(found) + len(heads) > _MAX_HEADS:
                    return None
                found += heads
            return found
        return [(EMPTY, node)]

    def _before(self, heads: list[_Head] | None, rest: Node) -> list[_Head] | None:
        return None if heads is None else [(head, seq([own, rest])) for head, own in heads]


def _n_nodes(node: Node) -> int:
    """Capped at _MAX_COPIED + 1."""
    return sum(1 for _ in islice(nodes_of(node), _MAX_COPIED + 1))
