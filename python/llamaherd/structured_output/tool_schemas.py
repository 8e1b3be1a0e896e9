"""Schemas of tool arguments, and their placeholders in a model's tool call grammar.

llama.cpp generates the grammar of tool calls with a literal in place of each value that has a
schema; llguidance receives the schemas themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llamaherd._core import InvalidRequestError
from llamaherd.structured_output import json_schema
from llamaherd.structured_output.rule import JSON_STYLE

MAX_TOOLS = 1_024
# llama.cpp builds rule names from both with std::regex, whose stack use grows with the length.
MAX_NAME_BYTES = 256
MAX_ARGUMENT_NAME_BYTES = 1_024

_MARK = "llamaherd"
_MAX_REFS = 32  # in a chain
_MAX_CHARS = 4 << 20  # of all argument schemas with their $defs


class ToolSchemas:
    """The argument schemas of tools.

    Args:
      tools: In OpenAI's format.

    Raises:
      InvalidRequestError: There are too many tools, or a schema is invalid.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        if len(tools) > MAX_TOOLS:
            raise InvalidRequestError(f"there must be at most {MAX_TOOLS} tools; got {len(tools)}")
        self._tools = tools
        self._functions = [_function_of(tool) for tool in tools]
        for function in self._functions:
            if function is None:
                continue
            _require_name("a tool's name", function.get("name"), MAX_NAME_BYTES)
            parameters = function.get("parameters")
            if not isinstance(parameters, Mapping | None):
                raise InvalidRequestError(
                    f"{_what(function)} must be a JSON schema that is an object; got {parameters!r}"
                )
            json_schema.require_usable(_what(function), parameters)
            for name in _properties_of(_parameters_of(function)):
                what = f"the name of an argument of tool {function.get('name')!r}"
                _require_name(what, name, MAX_ARGUMENT_NAME_BYTES)

    def marked_whole(self) -> tuple[list[Any], dict[str, str]]:
        """The tools with one literal for all arguments of each, and the schemas by literal."""
        tools, schemas = [], {}
        for i, function in enumerate(self._functions):
            mark = f"{_MARK}:{i}"
            tools.append(self._with_parameters(i, {"const": mark}))
            if function is not None:
                schemas[json.dumps(mark)] = _text(function, _parameters_of(function))
        return tools, schemas

    def marked_apart(self) -> tuple[list[Any], dict[str, str]]:
        """The tools with a literal for each non-string argument, and the schemas by literal."""
        tools, schemas = [], {}
        n_chars = 0
        for i, function in enumerate(self._functions):
            parameters = {} if function is None else _parameters_of(function)
            properties: dict[str, Any] = {}
            known: dict[str, bool] = {}
            for j, (name, schema) in enumerate(_properties_of(parameters).items()):
                if _may_be_string(schema, parameters, known):
                    properties[name] = {"type": "string"}
                    continue
                mark = [f"{_MARK}:{i}:{j}"]
                properties[name] = {"const": mark}
                assert function is not None
                text = _text(function, _part(schema, parameters))
                schemas[json.dumps(mark)] = text
                n_chars += len(text)
                if n_chars > _MAX_CHARS:
                    raise InvalidRequestError(
                        f"{_what(function)} are too large: schemas of arguments, each with the "
                        f"$defs it may refer to, must have at most {_MAX_CHARS} characters together"
                    )
            required = parameters.get("required")
            tools.append(
                self._with_parameters(
                    i,
                    {
                        "type": "object",
                        "properties": properties,
                        "required": [
                            name
                            for name in (required if isinstance(required, list) else [])
                            if isinstance(name, str) and name in properties
                        ],
                    },
                )
            )
        return tools, schemas

    def _with_parameters(self, i: int, parameters: dict[str, Any]) -> Any:
        function = self._functions[i]
        if function is None:
            return self._tools[i]  # llama.cpp reports the error
        return {**self._tools[i], "function": {**function, "parameters": parameters}}


def _function_of(tool: Any) -> Mapping[str, Any] | None:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return function if isinstance(function, Mapping) else None


def _require_name(what: str, name: Any, most: int) -> None:
    n_bytes = len(name.encode(errors="surrogatepass")) if isinstance(name, str) else 0
    if n_bytes > most:
        raise InvalidRequestError(f"{what} must have at most {most} bytes; got {n_bytes}")


def _what(function: Mapping[str, Any]) -> str:
    return f"the parameters of tool {function.get('name')!r}"


def _parameters_of(function: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        return {"type": "object", "properties": {}}
    return parameters


def _properties_of(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = parameters.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _text(function: Mapping[str, Any], schema: Any) -> str:
    """The schema for llguidance. As in llama.cpp, objects are closed to unlisted properties;
    unsupported keywords are ignored unless the tool is strict."""
    if not isinstance(schema, Mapping | bool):
        raise InvalidRequestError(f"{_what(function)} must be a JSON schema; got {schema!r}")
    simple = json.loads(json_schema.to_text(_what(function), json_schema.closed(schema)))
    lenient = function.get("strict") is not True
    return json.dumps({**simple, "x-guidance": {**JSON_STYLE, "lenient": lenient}})


def _part(schema: Any, whole: Mapping[str, Any]) -> Any:
    """A schema with the definitions it may refer to."""
    if not isinstance(schema, Mapping):
        return schema
    if '"$ref"' not in json.dumps(schema):
        return schema
    shared = {name: whole[name] for name in ("$defs", "definitions") if name in whole}
    return {**shared, **schema}


def _may_be_string(
    schema: Any, root: Mapping[str, Any], known: dict[str, bool], n_refs: int = 0
) -> bool:
    """As llama.cpp's common_chat_schema::may_be_string, but resolves each reference once."""
    if not isinstance(schema, Mapping):
        return schema is not False
    if "$ref" in schema and n_refs < _MAX_REFS:
        ref = schema["$ref"]
        if not isinstance(ref, str):
            return True
        if ref not in known:
            known[ref] = True  # for a reference to itself
            known[ref] = _may_be_string(_target(ref, root), root, known, n_refs + 1)
        return known[ref]
    for keyword in ("oneOf", "anyOf"):
        options = schema.get(keyword)
        if isinstance(options, list):
            return any(_may_be_string(option, root, known, n_refs) for option in options)
    every = schema.get("allOf")
    if isinstance(every, list) and every:
        return all(_may_be_string(part, root, known, n_refs) for part in every)
    if "const" in schema:
        return isinstance(schema["const"], str)
    if isinstance(schema.get("enum"), list):
        return any(isinstance(value, str) for value in schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return "string" in kind
    if isinstance(kind, str):
        return kind == "string"
    return not any(keyword in schema for keyword in ("properties", "items", "prefixItems"))


def _target(ref: str, root: Mapping[str, Any]) -> Any:
    at: Any = root
    if not ref.startswith("#/"):
        return {}
    for part in ref[2:].split("/"):
        if not isinstance(at, Mapping):
            return {}
        at = at.get(part.replace("~1", "/").replace("~0", "~"), {})
    return at
