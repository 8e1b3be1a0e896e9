"""Decides whether no value conforms to two of several schemas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

_TYPES = frozenset(("null", "boolean", "number", "string", "array", "object"))
_MAX_DEPTH = 8
_MAX_BRANCHES = 64

_Value = tuple[str, Any]


@dataclass
class _Facts:
    """What holds for every value that conforms to a schema.

    Attributes:
      types: Its JSON types, integers as "number".
      values: The possible values; None: unknown.
      properties: Facts on properties of objects, if present.
      required: Names of properties of objects.
    """

    types: frozenset[str] = _TYPES
    values: frozenset[_Value] | None = None
    properties: dict[str, _Facts] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)

    def add(self, other: _Facts) -> None:
        self.types &= other.types
        if other.values is not None:
            self.values = other.values if self.values is None else self.values & other.values
        for name, facts in other.properties.items():
            self.properties.setdefault(name, _Facts()).add(facts)
        self.required |= other.required


def are_disjoint(schemas: list[Any], target: Callable[[Any], Any]) -> bool:
    """Whether it is certain that every value conforms to at most one of the schemas.

    Args:
      schemas: Well-formed schemas.
      target: Target of a reference; None: unknown.
    """
    if len(schemas) > _MAX_BRANCHES:
        return False
    facts = [_facts_of(schema, target, _MAX_DEPTH) for schema in schemas]
    return all(_excludes(one, other) for one, other in combinations(facts, 2))


def _excludes(one: _Facts, other: _Facts) -> bool:
    common = one.types & other.types
    if not common:
        return True
    if one.values is not None and other.values is not None and not one.values & other.values:
        return True
    return common == {"object"} and any(
        _excludes(one.properties.get(name, _Facts()), other.properties.get(name, _Facts()))
        for name in one.required | other.required
    )


def _facts_of(schema: Any, target: Callable[[Any], Any], depth: int) -> _Facts:
    if not isinstance(schema, dict):
        return _Facts(types=frozenset()) if schema is False else _Facts()
    if depth == 0:
        return _Facts()
    facts = _Facts(required=set(schema.get("required") or ()))
    kinds = schema.get("type")
    if kinds is not None:
        listed = [kinds] if isinstance(kinds, str) else kinds
        facts.types = frozenset("number" if kind == "integer" else kind for kind in listed)
    if "const" in schema:
        facts.add(_facts_of_values([schema["const"]]))
    if isinstance(schema.get("enum"), list):
        facts.add(_facts_of_values(schema["enum"]))
    for name, part in (schema.get("properties") or {}).items():
        if isinstance(part, dict) and depth > 1:
            facts.properties[name] = _facts_of(part, target, depth - 1)
    parts = list(schema.get("allOf") or ())
    if "$ref" in schema:
        parts.append(target(schema["$ref"]))
    for part in parts:
        if part is not None:
            facts.add(_facts_of(part, target, depth - 1))
    return facts


def _facts_of_values(values: list[Any]) -> _Facts:
    known = [_key(value) for value in values]
    types = frozenset(kind for kind, _ in known)
    if types & {"array", "object"}:
        return _Facts(types=types)
    return _Facts(types=types, values=frozenset(known))


def _key(value: Any) -> _Value:
    """A hashable key, equal for equal JSON values; None for arrays and objects."""
    if value is None:
        return ("null", None)
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, str):
        return ("string", value)
    return ("array" if isinstance(value, list) else "object", None)
