"""Expressions of GBNF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, eq=False)
class Chars:
    """One character in these inclusive ranges, which are sorted and disjoint."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Seq:
    items: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Alt:
    options: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    item: Node
    least: int
    most: int | None


@dataclass(frozen=True, eq=False)
class Ref:
    name: str


@dataclass(frozen=True, eq=False)
class Token:
    """One token by id, or any other token if negated."""

    id: int
    negated: bool


@dataclass(frozen=True, eq=False)
class Json:
    """A JSON value valid under a schema (given as JSON)."""

    schema: str


@dataclass(frozen=True, eq=False)
class Terminal:
    """An expression matched by the lexer; excludes the empty text if nullable."""

    index: int
    node: Node
    nullable: bool


Node: TypeAlias = "Chars | Seq | Alt | Repeat | Ref | Token | Json | Terminal"
Rules: TypeAlias = dict[str, Node]

EMPTY = Seq(())


def seq(nodes: Iterable[Node]) -> Node:
    """Concatenation of nodes; nested sequences are flattened."""
    items: list[Node] = []
    for node in nodes:
        items += node.items if isinstance(node, Seq) else [node]
    return items[0] if len(items) == 1 else Seq(tuple(items)) if items else EMPTY


def alt(nodes: Iterable[Node]) -> Node:
    """Alternation of nodes; nested alternations are flattened."""
    options: list[Node] = []
    for node in nodes:
        options += node.options if isinstance(node, Alt) else [node]
    return options[0] if len(options) == 1 else Alt(tuple(options))


def children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Seq):
        return node.items
    if isinstance(node, Alt):
        return node.options
    return (node.item,) if isinstance(node, Repeat) else ()


def nodes_of(node: Node) -> Iterator[Node]:
    """A node and its descendants."""
    left = [node]
    while left:
        node = left.pop()
        yield node
        left += children(node)


def refs(node: Node) -> Iterator[Ref]:
    """The references within a node."""
    return (found for found in nodes_of(node) if isinstance(found, Ref))


def users_of(rules: Rules) -> dict[str, set[str]]:
    """For each rule, the rules that refer to it."""
    users: dict[str, set[str]] = {name: set() for name in rules}
    for name, node in rules.items():
        for ref in refs(node):
            users[ref.name].add(name)
    return users
