"""The form of JSON schemas: where subschemas are, and which values keywords take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from llamaherd._core import InvalidRequestError


class UnenforceableError(InvalidRequestError):
    """A schema cannot be enforced.

    Attributes:
      keyword: The keyword, or what the error is about.
    """

    def __init__(self, message: str, keyword: str) -> None:
        super().__init__(message)
        self.keyword = keyword


Schema: TypeAlias = "dict[str, Any] | bool"

BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SINGLE = (
    "items",
    "additionalItems",
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
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
COUNTS = tuple(
    least + what
    for what in ("Items", "Length", "Properties", "Contains")
    for least in ("min", "max")
)
_ANNOTATIONS = frozenset(
    (
        *("$comment", "$schema", "title", "description", "default", "examples", "deprecated"),
        *("readOnly", "writeOnly", "contentMediaType", "contentEncoding", "contentSchema"),
        *("discriminator", "nullable", "example", "externalDocs", "xml"),  # of OpenAPI
    )
)
TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_type(value: Any) -> bool:
    kinds = value if isinstance(value, list) and value else [value]
    return all(kind in TYPES for kind in kinds if isinstance(kind, str)) and _is_texts(kinds)


_Rule: TypeAlias = "tuple[Callable[[Any], bool], str]"
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(SINGLE, (_is_schema, "a schema")),
    "items": (
        lambda v: _is_schema(v) or (isinstance(v, list) and all(map(_is_schema, v))),
        "a schema",
    ),
    **dict.fromkeys(
        BY_NAME,
        (
            lambda v: isinstance(v, dict) and all(map(_is_schema, v.values())),
            "an object of schemas",
        ),
    ),
    **dict.fromkeys(
        LISTS,
        (lambda v: isinstance(v, list) and all(map(_is_schema, v)), "an array of schemas"),
    ),
    **dict.fromkeys(
        COUNTS,
        (
            lambda v: _is_number(v) and v >= 0 and (isinstance(v, int) or v.is_integer()),
            "an integer >= 0",
        ),
    ),
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), (_is_number, "a number")),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"),
        (lambda v: _is_number(v) or isinstance(v, bool), "a number"),
    ),
    **dict.fromkeys(("$ref", "pattern", "format"), (lambda v: isinstance(v, str), "a string")),
    "required": (_is_texts, "an array of strings"),
    "enum": (lambda v: isinstance(v, list), "an array"),
    "type": (_is_type, f"one of {', '.join(TYPES)}, or an array of them"),
    "dependentRequired": (
        lambda v: isinstance(v, dict) and all(map(_is_texts, v.values())),
        "an object of arrays of strings",
    ),
}


def require_well_formed(what: str, schema: Any) -> None:
    """Check the values of all keywords. A keyword whose value is null counts as absent.

    Raises:
      UnenforceableError: A value is invalid; the message states the keyword and the rule.
    """
    left = [schema]
    while left:
        at = left.pop()
        if not isinstance(at, dict):
            continue
        for keyword, (is_good, rule) in _RULES.items():
            value = at.get(keyword)
            if value is not None and not is_good(value):
                raise UnenforceableError(
                    f"{keyword} in {what} must be {rule}; got {repr(value)[:60]}", keyword
                )
        left += subschemas(at)


def well_formed_part(schema: Any) -> tuple[Any, set[str]]:
    """The schema without values that are invalid, and the keywords that have some."""
    if not isinstance(schema, dict):
        return (schema, set()) if isinstance(schema, bool) else (True, {"schema"})
    part: dict[str, Any] = {}
    bad: set[str] = set()
    for keyword, value in schema.items():
        inner = _parts(keyword, value)
        if inner is not None:
            part[keyword], more = inner
            bad |= more
        elif keyword not in _RULES or value is None or _RULES[keyword][0](value):
            part[keyword] = value
        else:
            bad.add(keyword)
    return part, bad


def _parts(keyword: str, value: Any) -> tuple[Any, set[str]] | None:
    """Likewise the value of a keyword whose values are schemas; None: it is none, or no schemas."""
    if keyword in BY_NAME and isinstance(value, dict):
        named = {name: well_formed_part(part) for name, part in value.items()}
        found: Any = {name: part for name, (part, _) in named.items()}
        bad = set().union(*(more for _, more in named.values()))
    elif keyword in (*LISTS, "items") and isinstance(value, list):
        listed = [well_formed_part(part) for part in value]
        found, bad = [part for part, _ in listed], set().union(*(more for _, more in listed))
    elif keyword in SINGLE and _is_schema(value):
        found, bad = well_formed_part(value)
    else:
        return None
    return found, {keyword if word == "schema" else word for word in bad}


def without_keywords(schema: Any, keywords: Iterable[str]) -> Any:
    """The schema without some keywords, in its subschemas too."""
    return _Normalizer("", frozenset(keywords)).normal(schema)


def subschemas(schema: dict[str, Any]) -> Iterator[Any]:
    """The direct subschemas of a well-formed schema."""
    for keyword in BY_NAME:
        yield from (schema.get(keyword) or {}).values()
    for keyword in (*LISTS, *SINGLE):
        value = schema.get(keyword)
        if isinstance(value, list):
            yield from value
        elif value is not None:
            yield value


def normal(schema: dict[str, Any]) -> dict[str, Any]:
    """An equivalent schema without annotations, null values, and the forms of older drafts."""
    text = json.dumps(schema)
    dropped = _ANNOTATIONS
    if '"$dynamicRef"' not in text:
        dropped |= {"$dynamicAnchor", "$recursiveAnchor"}
    own_id = schema.get("$id")
    if isinstance(own_id, str) and text.count('"$id"') == 1:
        schema = {keyword: value for keyword, value in schema.items() if keyword != "$id"}
    else:
        own_id = ""
    simple: dict[str, Any] = _Normalizer(own_id, dropped).normal(schema)
    return simple


class _Normalizer:
    """Args:
    own_id: The document's identifier, with which references may begin; empty: none.
    """

    def __init__(self, own_id: str, dropped: frozenset[str]) -> None:
        self._own_id = own_id.rstrip("#")
        self._dropped = dropped

    def normal(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        s = {
            keyword: value
            for keyword, value in schema.items()
            if keyword not in self._dropped and (value is not None or keyword == "const")
        }
        for keyword in BY_NAME:
            if isinstance(s.get(keyword), dict):
                s[keyword] = {name: self.normal(part) for name, part in s[keyword].items()}
        for keyword in (*LISTS, *SINGLE):
            value = s.get(keyword)
            if isinstance(value, list):
                s[keyword] = [self.normal(part) for part in value]
            elif value is not None:
                s[keyword] = self.normal(value)
        others = s.pop("additionalItems", None)
        if isinstance(s.get("items"), list):
            s["prefixItems"] = s.pop("items")
            if others is not None:
                s["items"] = others
        if not s.get("prefixItems", True):
            del s["prefixItems"]
        if self._own_id and "$ref" in s:
            s["$ref"] = self._local(s["$ref"])
        return s

    def _local(self, ref: str) -> str:
        own_id = self._own_id
        if ref == own_id or ref.startswith(f"{own_id}#"):
            return ref[len(own_id) :] or "#"
        return ref


def is_true(schema: Any) -> bool:
    """Whether a simplified schema allows every value."""
    return schema is True or schema == {}


def add_all_of(schema: dict[str, Any], *others: Schema) -> None:
    """Require other schemas too."""
    if others:
        schema["allOf"] = [*schema.get("allOf", []), *others]
