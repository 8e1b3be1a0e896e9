"""Detects expressions that can be a single terminal."""

from __future__ import annotations

from dataclasses import dataclass

from llamaherd.structured_output.gbnf.nodes import (
    Alt,
    Chars,
    Json,
    Node,
    Ref,
    Repeat,
    Rules,
    Terminal,
    Token,
    children,
    refs,
    users_of,
)

# Maximum size of a terminal, with all references expanded.
_MAX_NODES = 2_000
_MAX_DEPTH = 100


@dataclass(frozen=True)
class _Regular:
    """Size of a non-recursive expression with all references expanded."""

    n_nodes: int
    depth: int
    nullable: bool

    @property
    def is_small(self) -> bool:
        return self.n_nodes <= _MAX_NODES and self.depth <= _MAX_DEPTH


class Regulars:
    """Determines which expressions are regular.

    Args:
      rules: All rules that the expressions use.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules: dict[str, _Regular] = {}
        self._known: dict[Node, _Regular | None] = {}
        self._add_rules(rules)

    def can_be_terminal(self, node: Node) -> bool:
        regular = self._regular(node)
        return regular is not None and regular.is_small

    def is_nullable(self, node: Node) -> bool:
        """Whether a regular expression matches the empty text."""
        regular = self._regular(node)
        return regular is not None and regular.nullable

    def _add_rules(self, rules: Rules) -> None:
        n_left = {name: len({ref.name for ref in refs(node)}) for name, node in rules.items()}
        users = users_of(rules)
        left = [name for name, n in n_left.items() if n == 0]
        while left:
            name = left.pop()
            regular = self._find(rules[name])
            if regular is None or not regular.is_small:
                continue
            self._rules[name] = regular
            for user in users[name]:
                n_left[user] -= 1
                if n_left[user] == 0:
                    left.append(user)

    def _regular(self, node: Node) -> _Regular | None:
        if node not in self._known:
            self._known[node] = self._find(node)
        return self._known[node]

    def _find(self, node: Node) -> _Regular | None:
        if isinstance(node, Chars):
            return _Regular(1, 1, False)
        if isinstance(node, Ref):
            return self._rules.get(node.name)
        if isinstance(node, Token | Json | Terminal):
            return None
        parts = []
        for child in children(node):
            part = self._regular(child)
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
