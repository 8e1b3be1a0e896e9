"""Schemas of tools' arguments are taken out in bounded time and size."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llamaherd import InvalidRequestError
from llamaherd.structured_output.tool_schemas import ToolSchemas


def tool(properties: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "$defs": defs}
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def doubled(end: dict[str, Any], keyword: str = "anyOf") -> dict[str, Any]:
    defs: dict[str, Any] = {
        f"a{i}": {keyword: [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(30)
    }
    return {**defs, "a30": end}


@pytest.mark.parametrize(
    ("defs", "is_string"),
    [
        (doubled({"type": "integer"}), False),
        (doubled({"type": "string"}), True),
        (doubled({"type": "string"}, "allOf"), True),
        ({"a0": {"anyOf": [{"$ref": "#/$defs/a0"}, {"$ref": "#/$defs/a0"}]}}, True),
        ({"a0": {"$ref": 7}}, True),
    ],
)
def test_references_that_double_are_looked_at_once(defs: dict[str, Any], is_string: bool) -> None:
    (marked,), schemas = ToolSchemas([tool({"x": {"$ref": "#/$defs/a0"}}, defs)]).marked_apart()
    shown = marked["function"]["parameters"]["properties"]["x"]
    assert ("const" not in shown) is is_string
    assert len(schemas) == (not is_string)


def test_only_schemas_with_references_get_what_they_may_refer_to() -> None:
    properties = {"n": {"type": "integer"}, "r": {"$ref": "#/$defs/a"}}
    _, schemas = ToolSchemas([tool(properties, {"a": {"type": "integer"}})]).marked_apart()
    plain, referring = (json.loads(schema.text) for schema in schemas)
    assert "$defs" not in plain
    assert referring["$defs"] == {"a": {"type": "integer"}}


def test_schemas_that_repeat_their_definitions_are_bounded() -> None:
    defs: dict[str, Any] = {"a": {"type": "integer"}}
    defs |= {f"d{i}": True for i in range(4000)}
    properties = {f"x{i}": {"$ref": "#/$defs/a"} for i in range(2000)}
    with pytest.raises(InvalidRequestError, match="at most 4194304 characters together"):
        ToolSchemas([tool(properties, defs)]).marked_apart()
