"""Values of a JSON schema: the smallest, and those that hold a text at each place for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_REF = "#/components/schemas/"
_DEPTH = 12


class SchemaSamples:
    """Values of the schemas of an OpenAPI document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._schemas = document["components"]["schemas"]

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].removeprefix(_REF)]
        return schema

    def smallest(self, schema: Mapping[str, Any]) -> Any:
        """A value with required fields only."""
        schema = self.resolved(schema)
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        if "enum" in schema:
            return schema["enum"][0]
        if options := self._options(schema):
            return self.smallest(options[0])
        kind = schema.get("type")
        if kind == "object":
            properties = schema.get("properties", {})
            return {name: self.smallest(properties[name]) for name in schema.get("required", ())}
        if kind == "array":
            return [self.smallest(schema["items"])]
        values = {"string": "a", "boolean": False, "null": None}
        return values.get(str(kind), schema.get("minimum", 1))

    def with_text(self, schema: Mapping[str, Any], text: str, depth: int = _DEPTH) -> Iterator[Any]:
        """Values of which each has the text at one place where a string may be, enums included."""
        schema = self.resolved(schema)
        if depth == 0:
            return
        for option in self._options(schema):
            yield from self.with_text(option, text, depth - 1)
        kind = schema.get("type")
        if kind == "string":
            yield text
        elif kind == "array":
            for item in self.with_text(schema.get("items", {}), text, depth - 1):
                yield [item]
        elif kind == "object":
            whole = self.smallest(schema)
            for name, field in schema.get("properties", {}).items():
                for value in self.with_text(field, text, depth - 1):
                    yield {**whole, name: value}
            if schema.get("additionalProperties"):
                yield {text: "a"}
                yield {"a": text}
        elif not kind and not self._options(schema):
            yield text

    def _options(self, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        options = schema.get("anyOf") or schema.get("oneOf") or []
        return [option for option in options if option.get("type") != "null"]
