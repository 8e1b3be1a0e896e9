"""Converts right recursion in GBNF to repetition.

Rules that refer to each other in last position only, like list ::= item list | item, form a finite
automaton over their items. Eliminating its states yields expressions, which a lexer can match if
the items are regular.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

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
    refs,
    seq,
    users_of,
)

# Beyond these limits rules are left unchanged.
_MAX_STEPS = 300_000
_MAX_NODES = 4_000
_MAX_DEPTH = 120

# By state of the automaton, the expression before it; None: before the end.
_Equation: TypeAlias = "dict[str | None, Node]"


def without_right_recursion(rules: Rules) -> Rules:
    """Equivalent rules without right recursion. The input contains used rules only, and root."""
    changed = dict(rules)
    users = users_of(rules)
    for group in _groups(rules):
        entries = {name for name in group if name == "root" or not users[name] <= group}
        if len(entries) * len(group) ** 3 > _MAX_STEPS:
            continue
        equations = {name: _equation(rules[name], group) for name in group}
        if any(equation is None for equation in equations.values()):
            continue
        known = {name: equation for name, equation in equations.items() if equation is not None}
        for name in entries:
            node = _solved(name, known)
            if node is not None:
                changed[name] = node
    return changed


def _groups(rules: Rules) -> list[set[str]]:
    """Mutually recursive rules: strongly connected components (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    groups: list[set[str]] = []
    uses = {name: [ref.name for ref in refs(node)] for name, node in rules.items()}
    for start in rules:
        if start in index:
            continue
        index[start] = low[start] = len(index)
        stack.append(start)
        on_stack.add(start)
        path = [(start, iter(uses[start]))]
        while path:
            name, left = path[-1]
            for used in left:
                if used not in index:
                    index[used] = low[used] = len(index)
                    stack.append(used)
                    on_stack.add(used)
                    path.append((used, iter(uses[used])))
                    break
                if used in on_stack:
                    low[name] = min(low[name], index[used])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[name])
                if low[name] == index[name]:
                    group: set[str] = set()
                    while name not in group:
                        group.add(stack.pop())
                    on_stack -= group
                    if len(group) > 1 or name in uses[name]:
                        groups.append(group)
    return groups


def _equation(node: Node, group: set[str]) -> _Equation | None:
    """None: a rule of the group is referenced elsewhere than in last position."""
    if not any(ref.name in group for ref in refs(node)):
        return {None: node}
    if isinstance(node, Ref):
        return {node.name: EMPTY}
    if isinstance(node, Repeat):
        inner = _equation(node.item, group) if node.most == 1 else None
        return inner if inner is None or node.least == 1 else _sum([inner, {None: EMPTY}])
    if isinstance(node, Alt):
        parts = [_equation(option, group) for option in node.options]
        known = [part for part in parts if part is not None]
        return _sum(known) if len(known) == len(parts) else None
    assert isinstance(node, Seq)
    before = node.items[:-1]
    last = _equation(node.items[-1], group)
    if last is None or any(ref.name in group for item in before for ref in refs(item)):
        return None
    return _prefixed(seq(before), last)


def _solved(name: str, equations: Mapping[str, _Equation]) -> Node | None:
    """None: the expression is too large."""
    left = dict(equations)
    while True:
        # Eliminate the state that produces the fewest new expressions.
        state = min(
            (state for state in left if state != name),
            key=lambda state: len(left[state]) * sum(state in other for other in left.values()),
            default=name,
        )
        equation = _without_itself(state, left.pop(state))
        if state == name:
            return _within_bounds(equation[None]) if set(equation) == {None} else None
        for other, using in left.items():
            if state in using:
                before = using[state]
                rest = {key: node for key, node in using.items() if key != state}
                left[other] = _sum([rest, _prefixed(before, equation)])
                if any(_within_bounds(node) is None for node in left[other].values()):
                    return None


def _without_itself(state: str, equation: _Equation) -> _Equation:
    """Arden's rule: X = a X | b is equivalent to X = a* b."""
    if state not in equation:
        return equation
    again = Repeat(equation[state], 0, None)
    return _prefixed(again, {key: node for key, node in equation.items() if key != state})


def _sum(equations: Iterable[_Equation]) -> _Equation:
    parts: dict[str | None, list[Node]] = {}
    for equation in equations:
        for key, node in equation.items():
            parts.setdefault(key, []).append(node)
    return {key: alt(nodes) for key, nodes in parts.items()}


def _prefixed(before: Node, equation: _Equation) -> _Equation:
    return {key: seq((before, node)) for key, node in equation.items()}


def _within_bounds(node: Node) -> Node | None:
    n_nodes = 0
    left = [(node, 1)]
    while left:
        at, depth = left.pop()
        n_nodes += 1
        if n_nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return None
        left += [(child, depth + 1) for child in children(at)]
    return node
