"""Rewrites JSON schemas with the keywords that llguidance supports.

llguidance rejects unsupported keywords. Uses of them that have no effect, or that other keywords
can express, are rewritten here with exactly the meaning of draft 2020-12. All others are left
unchanged, so that llguidance rejects them by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from math import lcm
from typing import Any, TypeAlias

from llamaherd._core import InvalidRequestError

Schema: TypeAlias = "dict[str, Any] | bool"

MAX_VALUES = 10_000  # objects, arrays and scalars
MAX_DEPTH = 64  # nesting of arrays and objects
MAX_BYTES = 512 * 1024  # of the JSON text
# Least common multiple of all multipleOf values, scaled to integers: the number of states of
# llguidance's automaton.
MAX_MULTIPLE = 10_000
# Steps of the search for evaluated properties and items; beyond, they count as unknown.
_MAX_EVALUATED = 10_000
# Names and items listed for unevaluated*; beyond, they count as unknown.
_MAX_ADDED = 10_000

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SINGLE = (
    "items",
    "additionalProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_COUNTS = ("Items", "Length", "Properties", "Contains")
# Their evaluated properties and items depend on the value.
_CONDITIONAL = ("anyOf", "oneOf", "if", "dependentSchemas", "$dynamicRef", "$recursiveRef")
_OBJECT_KEYWORDS = ("properties", "patternProperties", "additionalProperties", "required")
# With one of these keywords, properties beyond the listed ones are allowed.
_OPENING = (
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "propertyNames",
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "dependentSchemas",
)
_NO_OBJECT = {"type": ["null", "boolean", "number", "string", "array"]}


def to_text(what: str, schema: Mapping[str, Any] | bool) -> str:
    """Convert a schema to an equivalent one for llguidance, as JSON.

    Args:
      what: Name of the schema in error messages.
      schema: JSON values. Not modified.

    Raises:
      InvalidRequestError: The schema contains other values, is too large, or allows no value.
    """
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{what} must hold JSON values: {error}") from None
    if len(text) > MAX_BYTES:
        raise InvalidRequestError(
            f"{what} must have at most {MAX_BYTES} bytes of JSON; got {len(text)}"
        )
    # Parse the text: a copy with plain JSON types and no cycles.
    copy = json.loads(text)
    require_usable(what, copy)
    simple = simplify(copy)
    if simple is False:
        raise InvalidRequestError(f"{what} allows no value")
    return json.dumps({} if simple is True else simple)


def require_usable(what: str, schema: Any) -> None:
    """Check the limits on the size of a schema.

    Raises:
      InvalidRequestError: A limit is exceeded; the message states it.
    """
    n_values = 0
    multiple = 1
    left = [(schema, 0)]
    while left:
        value, depth = left.pop()
        n_values += 1
        if n_values > MAX_VALUES:
            raise InvalidRequestError(f"{what} must hold at most {MAX_VALUES} JSON values")
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"{what} must be at most {MAX_DEPTH} levels deep")
        if isinstance(value, dict):
            left += [(child, depth + 1) for child in value.values()]
            number = value.get("multipleOf")
            if isinstance(number, int | float) and not isinstance(number, bool):
                multiple = lcm(multiple, _without_point(number))
                _require_small_multiple(what, multiple, number)
        elif isinstance(value, list):
            left += [(child, depth + 1) for child in value]


def _require_small_multiple(what: str, multiple: int, number: int | float) -> None:
    if multiple > MAX_MULTIPLE:
        raise InvalidRequestError(
            f"{what} must have numbers of multipleOf whose least common multiple is at "
            f"most {MAX_MULTIPLE}, without decimal points; got {repr(number)[:40]}"
        )


def closed(schema: Any) -> Any:
    """Close objects with listed properties to other properties, unless the schema defines those or
    lists properties in several places. The schema has passed `require_usable`."""
    if not isinstance(schema, Mapping):
        return schema
    s = dict(schema)
    for keyword in _BY_NAME:
        if isinstance(s.get(keyword), Mapping):
            s[keyword] = {name: closed(sub) for name, sub in s[keyword].items()}
    for keyword in ("items", "additionalProperties"):
        if keyword in s:
            s[keyword] = closed(s[keyword])
    for keyword in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(s.get(keyword), list) and "properties" not in s:
            s[keyword] = [closed(sub) for sub in s[keyword]]
    if "properties" in s and not any(keyword in s for keyword in _OPENING):
        s["additionalProperties"] = False
    return s


def _without_point(number: int | float) -> int:
    parts = Decimal(repr(number)).as_tuple()
    if not isinstance(parts.exponent, int) or abs(parts.exponent) > 20:
        return MAX_MULTIPLE + 1
    digits = int("".join(map(str, parts.digits)))
    return max(1, digits * int(10 ** max(0, parts.exponent)))


def simplify(schema: Schema) -> Schema:
    """Return an equivalent schema. The argument has passed `require_usable`; it is not modified."""
    simple: Schema = _Simplifier(schema).simplify(schema)
    return simple


def _is_true(schema: Any) -> bool:
    return schema is True or schema == {}


def _add_all_of(schema: dict[str, Any], other: Schema) -> None:
    schema["allOf"] = [*schema.get("allOf", []), other]


@dataclass
class _Evaluated:
    """Properties and items that a schema evaluates for every value."""

    names: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    all_properties: bool = False
    n_items: int = 0
    all_items: bool = False


class _Simplifier:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._n_evaluated = 0
        self._n_added = 0

    @cached_property
    def _has_ids(self) -> bool:
        return _has_ids(self._root)

    def simplify(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        s = self._children(schema)
        _integral_counts(s)
        _drop_constant_conditions(s)
        _contains(s)
        if s.get("uniqueItems") is False:
            del s["uniqueItems"]
        # From the original schema: a rewritten propertyNames would appear to evaluate them.
        if "unevaluatedProperties" in s:
            _unevaluated_properties(s, self._limited(self._evaluated(schema)))
        if "unevaluatedItems" in s:
            found = None if "contains" in json.dumps(schema) else self._evaluated(schema)
            _unevaluated_items(s, self._limited(found))
        _property_names(s)
        _dependent(s)
        if not _negation(s) or not _one_of(s):
            return False
        return s

    def _children(self, schema: dict[str, Any]) -> dict[str, Any]:
        s = dict(schema)
        for keyword in _BY_NAME:
            if isinstance(s.get(keyword), dict):
                s[keyword] = {name: self.simplify(sub) for name, sub in s[keyword].items()}
        for keyword in _SINGLE:
            if keyword in s:
                s[keyword] = self.simplify(s[keyword])
        for keyword in _LISTS:
            if isinstance(s.get(keyword), list):
                s[keyword] = [self.simplify(sub) for sub in s[keyword]]
        return s

    def _evaluated(self, schema: Any, depth: int = 0) -> _Evaluated | None:
        """The union over a schema and its in-place applicators; None: depends on the value."""
        if not isinstance(schema, dict):
            return _Evaluated()
        self._n_evaluated += 1
        if (
            depth > 20
            or self._n_evaluated > _MAX_EVALUATED
            or any(keyword in schema for keyword in _CONDITIONAL)
        ):
            return None
        found = _Evaluated(
            names=set(schema.get("properties", {})),
            patterns=set(schema.get("patternProperties", {})),
            all_properties=depth > 0 and "unevaluatedProperties" in schema,
            n_items=len(schema.get("prefixItems", [])),
            all_items="items" in schema or (depth > 0 and "unevaluatedItems" in schema),
        )
        found.all_properties |= "additionalProperties" in schema
        for other in self._in_place(schema):
            more = None if other is None else self._evaluated(other, depth + 1)
            if more is None:
                return None
            found.names |= more.names
            found.patterns |= more.patterns
            found.all_properties |= more.all_properties
            found.n_items = max(found.n_items, more.n_items)
            found.all_items |= more.all_items
        return found

    def _limited(self, found: _Evaluated | None) -> _Evaluated | None:
        """None if the rewritten schema would grow too large by repetition."""
        if found is not None:
            self._n_added += len(found.names) + len(found.patterns) + found.n_items
        return None if self._n_added > _MAX_ADDED else found

    def _in_place(self, schema: dict[str, Any]) -> Iterator[Any]:
        yield from schema.get("allOf", [])
        if "$ref" in schema:
            yield self._target(schema["$ref"])

    def _target(self, ref: Any) -> Any:
        """The target of a reference; None: not a JSON pointer within this document."""
        if not isinstance(ref, str) or not ref.startswith("#") or "%" in ref or self._has_ids:
            return None
        at: Any = self._root
        for part in ref[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(at, dict) or part not in at:
                return None
            at = at[part]
        return at if ref == "#" or ref.startswith("#/") else None


def _unevaluated_properties(s: dict[str, Any], found: _Evaluated | None) -> None:
    if _is_true(s["unevaluatedProperties"]) or (found and found.all_properties):
        del s["unevaluatedProperties"]
    elif found is not None:
        s["additionalProperties"] = s.pop("unevaluatedProperties")
        for keyword, names in (("properties", found.names), ("patternProperties", found.patterns)):
            if names:
                s[keyword] = {**dict.fromkeys(sorted(names), True), **s.get(keyword, {})}


def _unevaluated_items(s: dict[str, Any], found: _Evaluated | None) -> None:
    if _is_true(s["unevaluatedItems"]) or (found and found.all_items):
        del s["unevaluatedItems"]
    elif found is not None:
        s["items"] = s.pop("unevaluatedItems")
        prefix = s.get("prefixItems", [])
        if found.n_items:
            s["prefixItems"] = prefix + [True] * (found.n_items - len(prefix))


def _has_ids(schema: Any) -> bool:
    """Whether $id below the root may change the target of a reference."""
    text = json.dumps(schema)
    return '"$id"' in text[1:] and text.count('"$id"') > (
        isinstance(schema, dict) and "$id" in schema
    )


def _integral_counts(s: dict[str, Any]) -> None:
    """Convert integral floats: 2.0 to 2."""
    for keyword in (least + what for what in _COUNTS for least in ("min", "max")):
        value = s.get(keyword)
        if isinstance(value, float) and value.is_integer():
            s[keyword] = int(value)


def _drop_constant_conditions(s: dict[str, Any]) -> None:
    condition = s.get("if")
    if "if" not in s:
        s.pop("then", None)
        s.pop("else", None)
    elif "then" not in s and "else" not in s:
        del s["if"]
    elif _is_true(condition) or condition is False:
        taken = s.get("else" if condition is False else "then", True)
        for keyword in ("if", "then", "else"):
            s.pop(keyword, None)
        _add_all_of(s, taken)


def _contains(s: dict[str, Any]) -> None:
    """Rewrite contains if every item matches or none is required."""
    if "contains" not in s:
        s.pop("minContains", None)
        s.pop("maxContains", None)
        return
    least, most = s.get("minContains", 1), s.get("maxContains")
    if _is_true(s["contains"]):
        s["minItems"] = max(s.get("minItems", 0), least)
        if most is not None:
            s["maxItems"] = min(s.get("maxItems", most), most)
    elif not (least == 0 and most is None):
        return
    for keyword in ("contains", "minContains", "maxContains"):
        s.pop(keyword, None)


def _property_names(s: dict[str, Any]) -> None:
    rule = s.get("propertyNames")
    if "propertyNames" in s and _is_true(rule):
        del s["propertyNames"]
        return
    if "propertyNames" not in s or any(keyword in s for keyword in _OBJECT_KEYWORDS):
        return
    if rule is False:
        s["maxProperties"] = 0
    elif isinstance(rule, dict) and set(rule) <= {"type", "enum", "const"} and len(rule) > 0:
        names = rule["enum"] if "enum" in rule else [rule["const"]] if "const" in rule else None
        if names is None or rule.get("type", "string") != "string":
            return
        names = [name for name in names if name == rule.get("const", name)]
        s["properties"] = {name: True for name in names if isinstance(name, str)}
        s["additionalProperties"] = False
    elif isinstance(rule, dict) and set(rule) <= {"type", "pattern", "minLength", "maxLength"}:
        lengths = "minLength" in rule or "maxLength" in rule
        if rule.get("type", "string") != "string" or ("pattern" in rule) == lengths:
            return
        least, most = rule.get("minLength", 0), rule.get("maxLength", "")
        pattern = rule.get("pattern", f"^[\\s\\S]{{{least},{most}}}$")
        s["patternProperties"] = {pattern: True}
        s["additionalProperties"] = False
    else:
        return
    del s["propertyNames"]


def _dependent(s: dict[str, Any]) -> None:
    """Rewrite as: the property is absent, or the dependent schema holds."""
    needed = s.get("dependentRequired", {})
    schemas = s.get("dependentSchemas", {})
    if not isinstance(needed, dict) or not isinstance(schemas, dict):
        return
    for keyword in ("dependentRequired", "dependentSchemas"):
        s.pop(keyword, None)
    asked = [(name, {"required": [name, *names]}) for name, names in needed.items() if names]
    asked += [(name, {"required": [name], "allOf": [sub]}) for name, sub in schemas.items()]
    for name, sub in asked:
        if sub.get("allOf") == [True]:
            continue
        without = {"type": "object", "properties": {name: False}}
        having = [] if sub.get("allOf") == [False] else [{"type": "object", **sub}]
        _add_all_of(s, {"anyOf": [_NO_OBJECT, without, *having]})


def _negation(s: dict[str, Any]) -> bool:
    """False: the schema allows no value."""
    rule = s.get("not", False)
    if _is_true(rule):
        return False
    if rule is False:
        s.pop("not", None)
    elif isinstance(rule, dict) and set(rule) == {"not"}:
        _add_all_of(s, s.pop("not")["not"])
    return True


def _one_of(s: dict[str, Any]) -> bool:
    """False: the schema allows no value."""
    branches = s.get("oneOf")
    if not isinstance(branches, list):
        return True
    left = [branch for branch in branches if branch is not False]
    if len(left) == 1:
        del s["oneOf"]
        _add_all_of(s, left[0])
    elif branches and (not left or sum(map(_is_true, left)) > 1):
        return False
    return True
