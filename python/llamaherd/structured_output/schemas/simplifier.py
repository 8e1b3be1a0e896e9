"""Rewrites JSON schemas with the keywords that llguidance supports.

llguidance rejects unsupported keywords. Uses of them that have no effect, or that other keywords
can express, are rewritten here with exactly the meaning of draft 2020-12. All others are left
unchanged, so that llguidance rejects them by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llamaherd.structured_output.schemas.disjointness import are_disjoint
from llamaherd.structured_output.schemas.patterns import without_lookaround
from llamaherd.structured_output.schemas.property_names import rewrite_property_names
from llamaherd.structured_output.schemas.schema_form import (
    BY_NAME,
    COUNTS,
    LISTS,
    SINGLE,
    Schema,
    UnenforceableError,
    add_all_of,
    is_true,
    normal,
    require_well_formed,
)

# Steps of the search for evaluated properties and items; beyond, they count as unknown.
_MAX_EVALUATED = 10_000
# Names and items listed for unevaluated*; beyond, they count as unknown.
_MAX_ADDED = 10_000
_MAX_TARGETS = 1_000  # references of propertyNames that are resolved

# Their evaluated properties and items depend on the value.
_CONDITIONAL = ("anyOf", "oneOf", "if", "dependentSchemas", "$dynamicRef", "$recursiveRef")
_NO_OBJECT = {"type": ["null", "boolean", "number", "string", "array"]}
# JSON Schema's formats. llguidance has grammars of some, and rejects the others by name.
_FORMATS = frozenset(
    (
        *("date-time", "date", "time", "duration", "email", "idn-email", "hostname"),
        *("idn-hostname", "ipv4", "ipv6", "uri", "uri-reference", "iri", "iri-reference", "uuid"),
        *("uri-template", "relative-json-pointer", "regex"),
    )
)
_FORMAT_PATTERNS = {"json-pointer": "^(?:/(?:[^/~]|~[01])*)*$"}


def simplify(schema: Schema) -> Schema:
    """Return an equivalent schema. The argument is small and well-formed; it is not modified.

    Raises:
      UnenforceableError: llguidance would not enforce a keyword.
    """
    if isinstance(schema, bool):
        return schema
    root = normal(schema)
    simple: Schema = _Simplifier(root).simplify(root)
    return simple


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
        self._n_targets = 0
        self._targets: dict[str, Any] = {}

    @cached_property
    def _has_ids(self) -> bool:
        return _has_ids(self._root)

    def simplify(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        s = self._children(schema)
        _integral_counts(s)
        _require_few_properties(s)
        _format(s)
        _patterns(s)
        _drop_constant_conditions(s)
        _contains(s)
        if s.get("uniqueItems") is False or s.get("maxItems", 2) <= 1:
            s.pop("uniqueItems", None)
        # From the original schema: a rewritten propertyNames would appear to evaluate them.
        if "unevaluatedProperties" in s:
            _unevaluated_properties(s, self._limited(self._evaluated(schema)))
        if "unevaluatedItems" in s:
            found = None if "contains" in json.dumps(schema) else self._evaluated(schema)
            _unevaluated_items(s, self._limited(found))
        rewrite_property_names(s, self._simple_target)
        _dependent(s)
        if not _negation(s) or not _one_of(s, self._target):
            return False
        return s

    def _children(self, schema: dict[str, Any]) -> dict[str, Any]:
        s = dict(schema)
        for keyword in BY_NAME:
            if isinstance(s.get(keyword), dict):
                s[keyword] = {name: self.simplify(sub) for name, sub in s[keyword].items()}
        for keyword in SINGLE:
            if keyword in s:
                s[keyword] = self.simplify(s[keyword])
        for keyword in LISTS:
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

    def _simple_target(self, ref: Any) -> Any:
        self._n_targets += 1
        found = self._target(ref) if self._n_targets < _MAX_TARGETS else None
        return self.simplify(found) if isinstance(found, dict) and "$ref" not in found else None

    def _in_place(self, schema: dict[str, Any]) -> Iterator[Any]:
        yield from schema.get("allOf", [])
        if "$ref" in schema:
            yield self._target(schema["$ref"])

    def _target(self, ref: Any) -> Any:
        """The target of a reference; None: not a schema within this document."""
        if not isinstance(ref, str) or not ref.startswith("#") or "%" in ref or self._has_ids:
            return None
        if ref not in self._targets:
            self._targets[ref] = _usable(self._found(ref))
        return self._targets[ref]

    def _found(self, ref: str) -> Any:
        at: Any = self._root
        for part in ref[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, list) and part.isdecimal() and len(part) < 10:
                at = dict(enumerate(at)).get(int(part))
            elif isinstance(at, dict):
                at = at.get(part)
            else:
                return None
        return at if ref == "#" or ref.startswith("#/") else None


def _usable(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema if isinstance(schema, bool) else None
    try:
        require_well_formed("", schema)
    except UnenforceableError:
        return None
    return normal(schema)


def _unevaluated_properties(s: dict[str, Any], found: _Evaluated | None) -> None:
    if is_true(s["unevaluatedProperties"]) or (found and found.all_properties):
        del s["unevaluatedProperties"]
    elif found is not None:
        s["additionalProperties"] = s.pop("unevaluatedProperties")
        for keyword, names in (("properties", found.names), ("patternProperties", found.patterns)):
            if names:
                s[keyword] = {**dict.fromkeys(sorted(names), True), **s.get(keyword, {})}


def _unevaluated_items(s: dict[str, Any], found: _Evaluated | None) -> None:
    if is_true(s["unevaluatedItems"]) or (found and found.all_items):
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
    for keyword in COUNTS:
        value = s.get(keyword)
        if isinstance(value, float) and value.is_integer():
            s[keyword] = int(value)


def _require_few_properties(s: dict[str, Any]) -> None:
    """llguidance does not compare the names of properties that are not listed.

    Raises:
      UnenforceableError: Two of them are required.
    """
    is_open = s.get("patternProperties") or s.get("additionalProperties", True) is not False
    if is_open and s.get("minProperties", 0) > len(set(s.get("required", ()))) + 1:
        raise UnenforceableError(
            "minProperties must be at most the number of required properties + 1 where properties "
            "may be added",
            "minProperties",
        )


def _drop_constant_conditions(s: dict[str, Any]) -> None:
    condition = s.get("if")
    if "if" not in s:
        s.pop("then", None)
        s.pop("else", None)
    elif "then" not in s and "else" not in s:
        del s["if"]
    elif is_true(condition) or condition is False:
        taken = s.get("else" if condition is False else "then", True)
        for keyword in ("if", "then", "else"):
            s.pop(keyword, None)
        add_all_of(s, taken)


def _contains(s: dict[str, Any]) -> None:
    """Rewrite contains if every item matches or none is required."""
    if "contains" not in s:
        s.pop("minContains", None)
        s.pop("maxContains", None)
        return
    least, most = s.get("minContains", 1), s.get("maxContains")
    if is_true(s["contains"]):
        s["minItems"] = max(s.get("minItems", 0), least)
        if most is not None:
            s["maxItems"] = min(s.get("maxItems", most), most)
    elif not (least == 0 and most is None):
        return
    for keyword in ("contains", "minContains", "maxContains"):
        s.pop(keyword, None)


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
        add_all_of(s, {"anyOf": [_NO_OBJECT, without, *having]})


def _negation(s: dict[str, Any]) -> bool:
    """False: the schema allows no value."""
    rule = s.get("not", False)
    if is_true(rule):
        return False
    if rule is False:
        s.pop("not", None)
    elif isinstance(rule, dict) and set(rule) == {"not"}:
        add_all_of(s, s.pop("not")["not"])
    return True


def _one_of(s: dict[str, Any], target: Callable[[Any], Any]) -> bool:
    """False: the schema allows no value."""
    branches = s.get("oneOf")
    if not isinstance(branches, list):
        return True
    left = [branch for branch in branches if branch is not False]
    if len(left) == 1:
        del s["oneOf"]
        add_all_of(s, left[0])
    elif branches and (not left or sum(map(is_true, left)) > 1):
        return False
    elif are_disjoint(left, target):
        del s["oneOf"]
        if "anyOf" in s:
            add_all_of(s, {"anyOf": left})
        else:
            s["anyOf"] = left
    return True


def _format(s: dict[str, Any]) -> None:
    """Drop formats that JSON Schema does not define, and those beside a pattern of the whole
    string: "format" is an annotation."""
    name = s.get("format")
    pattern = s.get("pattern", "")
    is_whole = pattern.startswith("^") and pattern.endswith("$")
    if name is None or (name in _FORMATS and not is_whole):
        return
    del s["format"]
    if name in _FORMAT_PATTERNS:
        add_all_of(s, {"pattern": _FORMAT_PATTERNS[name]})


def _patterns(s: dict[str, Any]) -> None:
    if "pattern" in s:
        *others, s["pattern"] = without_lookaround(s["pattern"])
        add_all_of(s, *({"pattern": pattern} for pattern in others))
    if "patternProperties" in s:
        renamed: dict[str, Any] = {}
        for pattern, schema in s["patternProperties"].items():
            parts = without_lookaround(pattern)
            pattern = parts[0] if len(parts) == 1 else pattern
            known = renamed.get(pattern)
            renamed[pattern] = schema if known is None else {"allOf": [known, schema]}
        s["patternProperties"] = renamed
