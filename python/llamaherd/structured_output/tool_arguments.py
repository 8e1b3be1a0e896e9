"""The arguments that the schema of a tool declares: their schemas and JSON types."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_MAX_REFS = 32  # in a chain
_MAX_PARTS = 1_000  # subschemas searched for properties
_ROOT = "llamaherd:root"
_LOCAL = ("#/$defs/", "#/definitions/")
_DATA = ("const", "enum", "default", "examples")
_DEFINITIONS = ("$defs", "definitions")

ALL_TYPES = frozenset(("null", "boolean", "number", "string", "array", "object"))


@dataclass
class Arguments:
    """Arguments of a tool.

    Attributes:
      parts: By name, the schemas that all apply; they may refer to the tool's whole schema.
      required: Names of arguments that every call has.
    """

    parts: dict[str, list[Any]] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)

    @property
    def schemas(self) -> dict[str, Any]:
        """One schema for each argument."""
        return {name: _all_of(parts) for name, parts in self.parts.items()}

    def add(self, other: Arguments) -> None:
        """Require the other's schemas too."""
        for name, parts in other.parts.items():
            known = self.parts.setdefault(name, [])
            known += [part for part in parts if part not in known]
        self.required |= other.required


def _all_of(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else {"allOf": parts}


def arguments_of(parameters: Mapping[str, Any]) -> Arguments:
    """The arguments that a schema declares, itself or by $ref, allOf, anyOf and oneOf."""
    return _Search(parameters).arguments(parameters)


class _Search:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._n_left = _MAX_PARTS
        self._refs = {"#"}  # that were followed

    def arguments(self, schema: Any) -> Arguments:
        found = Arguments()
        self._n_left -= 1
        if not isinstance(schema, Mapping) or self._n_left < 0:
            return found
        required = schema.get("required")
        if isinstance(required, list):
            found.required |= {name for name in required if isinstance(name, str)}
        properties = schema.get("properties")
        if isinstance(properties, Mapping):
            found.parts = {name: [part] for name, part in properties.items()}
        ref = schema.get("$ref")
        if isinstance(ref, str) and ref not in self._refs:
            self._refs.add(ref)
            found.add(self.arguments(target_of(ref, self._root)))
        for part in _list(schema, "allOf"):
            found.add(self.arguments(part))
        for keyword in ("anyOf", "oneOf"):
            found.add(_either([self.arguments(part) for part in _list(schema, keyword)]))
        return found


def _list(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    parts = schema.get(keyword)
    return parts if isinstance(parts, list) else []


def _either(branches: list[Arguments]) -> Arguments:
    """The arguments that any of the branches declares."""
    found = Arguments()
    declared = [branch.schemas for branch in branches]
    for name in dict.fromkeys(name for schemas in declared for name in schemas):
        options: list[Any] = []
        for schemas in declared:
            if name in schemas and schemas[name] not in options:
                options.append(schemas[name])
        found.parts[name] = options if len(options) == 1 else [{"anyOf": options}]
    if branches:
        found.required = set.intersection(*(branch.required for branch in branches))
    return found


def types_of(
    schema: Any, root: Mapping[str, Any], known: dict[str, frozenset[str]], n_refs: int = 0
) -> frozenset[str]:
    """JSON types that may conform, integers as "number". Without "type", the keywords of arrays and
    objects decide, as in llama.cpp.

    Args:
      known: Types of references; extended. Each reference is resolved once.
    """
    if not isinstance(schema, Mapping):
        return frozenset() if schema is False else ALL_TYPES
    types = _own_types(schema)
    ref = schema.get("$ref")
    if isinstance(ref, str) and n_refs < _MAX_REFS:
        if ref not in known:
            known[ref] = ALL_TYPES  # for a reference to itself
            known[ref] = types_of(target_of(ref, root), root, known, n_refs + 1)
        types &= known[ref]
    for part in _list(schema, "allOf"):
        types &= types_of(part, root, known, n_refs)
    for keyword in ("anyOf", "oneOf"):
        if _list(schema, keyword):
            branches = (types_of(part, root, known, n_refs) for part in schema[keyword])
            types &= frozenset[str]().union(*branches)
    return types


def _own_types(schema: Mapping[str, Any]) -> frozenset[str]:
    if "const" in schema:
        return frozenset((_type_of(schema["const"]),))
    if isinstance(schema.get("enum"), list):
        return frozenset(map(_type_of, schema["enum"]))
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if kind is not None:
        return frozenset("number" if k == "integer" else k for k in kinds if isinstance(k, str))
    if "properties" in schema:
        return frozenset(("object",))
    if "items" in schema or "prefixItems" in schema:
        return frozenset(("array",))
    return ALL_TYPES


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def target_of(ref: str, root: Mapping[str, Any]) -> Any:
    """The target of a reference within a schema; {} if there is none."""
    at: Any = root
    if ref == "#":
        return root
    if not ref.startswith("#/"):
        return {}
    for part in ref[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, Mapping):
            at = at.get(part, {})
        elif isinstance(at, list) and part.isdecimal() and len(part) < 10 and int(part) < len(at):
            at = at[int(part)]
        else:
            return {}
    return at


def part_of(schema: Any, whole: Mapping[str, Any]) -> Any:
    """A part of a schema as a schema of its own, with what its references may refer to."""
    if not isinstance(schema, Mapping) or '"$ref"' not in json.dumps(schema):
        return schema
    shared = {name: whole[name] for name in _DEFINITIONS if name in whole}
    if all(ref.startswith(_LOCAL) for ref in _refs([schema, shared])):
        return {**shared, **schema}
    return {**_moved(schema), "$defs": {**_moved(schema).get("$defs", {}), _ROOT: _moved(whole)}}


def _refs(schemas: Iterable[Any]) -> Iterator[str]:
    left = list(schemas)
    while left:
        at = left.pop()
        if isinstance(at, Mapping):
            ref = at.get("$ref")
            if isinstance(ref, str):
                yield ref
            left += [value for keyword, value in at.items() if keyword not in _DATA]
        elif isinstance(at, list):
            left += at


def _moved(schema: Any) -> Any:
    """The schema with references to the root as references to its copy in $defs."""
    if isinstance(schema, list):
        return [_moved(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {
        keyword: value if keyword in _DATA else _moved(value) for keyword, value in schema.items()
    }
    ref = moved.get("$ref")
    if isinstance(ref, str) and ref.startswith("#"):
        moved["$ref"] = f"#/$defs/{_ROOT}{ref[1:]}"
    return moved
