"""Rewrites propertyNames with the keywords that llguidance supports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llamaherd.structured_output.schemas.patterns import matches
from llamaherd.structured_output.schemas.schema_form import Schema, is_true

_MAX_MATCHES = 1_000  # a pattern compared with a name
# Formats of names, as patterns.
_FORMATS = {
    "uuid": r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$",
    "date": r"^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])$",
}


def rewrite_property_names(s: dict[str, Any], target: Callable[[Any], Any]) -> None:
    """Rewrite the keyword in place if that is possible; else it stays.

    Args:
      s: A simplified schema.
      target: Simplified target of a reference; None: unknown.
    """
    if "propertyNames" not in s:
        return
    rule = _of_strings(s["propertyNames"], target)
    if is_true(rule):
        del s["propertyNames"]
        return
    names = _finite(rule, target)
    if names is not None:
        _only_named(s, names)
    elif isinstance(rule, dict):
        pattern = _pattern_of(rule)
        if pattern is not None:
            _only_matching(s, pattern)


def _of_strings(rule: Any, target: Callable[[Any], Any]) -> Any:
    """A schema of strings without "type"."""
    if isinstance(rule, dict) and set(rule) == {"$ref"}:
        rule = target(rule["$ref"])
    if not isinstance(rule, dict) or "type" not in rule:
        return rule
    rest = {keyword: value for keyword, value in rule.items() if keyword != "type"}
    kinds = rule["type"]
    return rest if "string" in ([kinds] if isinstance(kinds, str) else kinds) else False


def _finite(rule: Any, target: Callable[[Any], Any]) -> list[str] | None:
    """The strings that conform; None: unknown or too many."""
    if rule is False:
        return []
    if not isinstance(rule, dict) or not rule:
        return None
    if set(rule) <= {"enum", "const"}:
        values = rule.get("enum", [rule.get("const")])
        return [v for v in values if isinstance(v, str) and v == rule.get("const", v)]
    if set(rule) == {"anyOf"}:
        branches = [_finite(_of_strings(branch, target), target) for branch in rule["anyOf"]]
        known = [branch for branch in branches if branch is not None]
        if len(known) == len(branches):
            return list(dict.fromkeys(name for branch in known for name in branch))
    return None


def _pattern_of(rule: dict[str, Any]) -> str | None:
    """A pattern of the strings that conform; None: not one pattern."""
    if set(rule) == {"pattern"}:
        return str(rule["pattern"])
    if set(rule) == {"format"}:
        return _FORMATS.get(rule["format"])
    if set(rule) <= {"minLength", "maxLength"}:
        return f"^[\\s\\S]{{{rule.get('minLength', 0)},{rule.get('maxLength', '')}}}$"
    return None


def _only_named(s: dict[str, Any], names: list[str]) -> None:
    patterns = s.get("patternProperties", {})
    if len(patterns) * len(names) > _MAX_MATCHES:
        return
    properties: dict[str, Schema] = {}
    for name in names:
        schema = _schema_for(s, name)
        if schema is None:
            return
        properties[name] = schema
    s.pop("patternProperties", None)
    del s["propertyNames"]
    s["properties"] = properties
    s["additionalProperties"] = False


def _schema_for(s: dict[str, Any], name: str) -> Schema | None:
    """The schema of a property; None: unknown."""
    parts = [s["properties"][name]] if name in s.get("properties", {}) else []
    for pattern, schema in s.get("patternProperties", {}).items():
        is_match = matches(pattern, name)
        if is_match is None:
            return None
        if is_match:
            parts.append(schema)
    if not parts:
        found: Schema = s.get("additionalProperties", True)
        return found
    return parts[0] if len(parts) == 1 else {"allOf": parts}


def _only_matching(s: dict[str, Any], pattern: str) -> None:
    patterns = s.get("patternProperties", {})
    others = s.get("additionalProperties", True)
    properties = s.get("properties", {})
    if set(patterns) - {pattern} or len(properties) > _MAX_MATCHES:
        return
    matched = {name: matches(pattern, name) for name in properties}
    if None in matched.values():
        return
    if not patterns and not is_true(others) and any(matched.values()):
        return  # the schema of other properties would apply to the declared ones too
    if properties:
        s["properties"] = {
            name: schema if matched[name] else False for name, schema in properties.items()
        }
    s["patternProperties"] = patterns or {pattern: others}
    s["additionalProperties"] = False
    del s["propertyNames"]
