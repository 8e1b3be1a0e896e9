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
from llamaherd.structured_output.constraint_errors import SIZE, UNSATISFIABLE
from llamaherd.structured_output.rule import JSON_STYLE, MarkedSchema
from llamaherd.structured_output.schemas.schema_form import (
    UnenforceableError,
    well_formed_part,
    without_keywords,
)
from llamaherd.structured_output.tool_arguments import (
    ALL_TYPES,
    Arguments,
    arguments_of,
    part_of,
    target_of,
    types_of,
)

MAX_TOOLS = 1_024
# llama.cpp builds rule names from both with std::regex, whose stack use grows with the length.
MAX_NAME_BYTES = 256
MAX_ARGUMENT_NAME_BYTES = 1_024

_MARK = "llamaherd"
_MAX_TRIES = 6  # of converting a schema, each with fewer keywords
_MAX_CHARS = 4 << 20  # of all argument schemas with their $defs
_ANY_VALUE = json.dumps({"x-guidance": JSON_STYLE})
_ANY_OBJECT = json.dumps({"type": "object", "x-guidance": JSON_STYLE})
# Keywords that formats with arguments written apart do not enforce.
_OF_ALL_ARGUMENTS = (
    *("anyOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas"),
    *("minProperties", "maxProperties"),
)
_OF_STRINGS = ("enum", "const", "pattern", "format", "minLength", "maxLength")


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
        self._arguments: list[Arguments] = []
        for function in self._functions:
            self._arguments.append(Arguments())
            if function is None:
                continue
            _require_name("a tool's name", function.get("name"), MAX_NAME_BYTES)
            parameters = function.get("parameters")
            if not isinstance(parameters, Mapping | None):
                raise InvalidRequestError(
                    f"{_what(function)} must be a JSON schema that is an object; got {parameters!r}"
                )
            json_schema.require_small(_what(function), parameters)
            self._arguments[-1] = arguments_of(_parameters_of(function))
            for name in self._arguments[-1].schemas:
                what = f"the name of an argument of tool {function.get('name')!r}"
                _require_name(what, name, MAX_ARGUMENT_NAME_BYTES)

    def marked_whole(self) -> tuple[list[Any], list[MarkedSchema]]:
        """The tools with one literal for all arguments of each, and the schemas of the literals."""
        tools, schemas = [], []
        for i, function in enumerate(self._functions):
            mark = f"{_MARK}:{i}"
            tools.append(self._with_parameters(i, {"const": mark}))
            if function is not None:
                whole = _of_object(_parameters_of(function))
                schemas.append(_marked(function, json.dumps(mark), whole, _ANY_OBJECT))
        return tools, schemas

    def marked_apart(self) -> tuple[list[Any], list[MarkedSchema]]:
        """The tools with a literal for each non-string argument, and the literals' schemas."""
        tools, schemas = [], []
        n_chars = 0
        for i, function in enumerate(self._functions):
            parameters = {} if function is None else _parameters_of(function)
            properties: dict[str, Any] = {}
            known: dict[str, frozenset[str]] = {}
            loose = {keyword for keyword in _OF_ALL_ARGUMENTS if keyword in parameters}
            for j, (name, schema) in enumerate(self._arguments[i].schemas.items()):
                assert function is not None
                types = types_of(schema, parameters, known)
                if schema is False:
                    continue
                if "string" in types:
                    # Written as plain text.
                    properties[name] = _of_types(types)
                    loose |= _string_keywords(schema, parameters)
                    continue
                mark = [f"{_MARK}:{i}:{j}"]
                properties[name] = {"const": mark}
                part = part_of(schema, parameters)
                schemas.append(_marked(function, json.dumps(mark), part, _ANY_VALUE))
                n_chars += len(schemas[-1].text)
                if n_chars > _MAX_CHARS:
                    raise InvalidRequestError(
                        f"{_what(function)} are too large: schemas of arguments, each with the "
                        f"$defs it may refer to, must have at most {_MAX_CHARS} characters together"
                    )
            if function is not None and loose:
                schemas.append(_note(function, i, loose))
            required = [name for name in properties if name in self._arguments[i].required]
            shape = {"type": "object", "properties": properties, "required": required}
            tools.append(self._with_parameters(i, shape))
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


def _of_object(parameters: Mapping[str, Any]) -> Any:
    """The schema restricted to objects; False: it allows none."""
    kinds = parameters.get("type")
    if kinds is None or "object" in (kinds if isinstance(kinds, list) else [kinds]):
        return {**parameters, "type": "object"}
    return False


def _of_types(types: frozenset[str]) -> dict[str, Any]:
    if types == ALL_TYPES:
        return {}
    return {"type": "string" if types == {"string"} else sorted(types)}


def _string_keywords(schema: Any, parameters: Mapping[str, Any]) -> set[str]:
    """Keywords of a string argument that a format with plain text does not enforce."""
    parts = [schema]
    if isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str):
        parts.append(target_of(schema["$ref"], parameters))
    return {
        word for word in _OF_STRINGS for part in parts if isinstance(part, Mapping) and word in part
    }


def _note(function: Mapping[str, Any], i: int, keywords: set[str]) -> MarkedSchema:
    """A schema that is not used. It carries keywords that the format does not enforce."""
    mark = json.dumps([f"{_MARK}:{i}"])
    return MarkedSchema(
        mark, _ANY_VALUE, str(function.get("name")), _ANY_VALUE, tuple(sorted(keywords))
    )


def _marked(function: Mapping[str, Any], mark: str, schema: Any, otherwise: str) -> MarkedSchema:
    """The schema for llguidance, without keywords it would reject. As in llama.cpp, objects are
    closed to unlisted properties.

    Raises:
      InvalidRequestError: The tool is strict, and its schema is too large or cannot be enforced.
    """
    tool = str(function.get("name"))
    if function.get("strict") is True:
        return MarkedSchema(mark, _guided(_what(function), schema, lenient=False), tool)
    part, unenforced = well_formed_part(json.loads(json.dumps(schema)))
    for _ in range(_MAX_TRIES):
        text, keyword = _text_or_keyword(_what(function), part)
        if not keyword:
            return MarkedSchema(mark, text, tool, otherwise, tuple(sorted(unenforced)))
        unenforced.add(keyword)
        if keyword in (SIZE, UNSATISFIABLE):
            break
        part = without_keywords(part, (keyword,))
    return MarkedSchema(mark, otherwise, tool, otherwise, tuple(sorted(unenforced)))


def _text_or_keyword(what: str, schema: Any) -> tuple[str, str]:
    """The schema for llguidance, or the keyword that prevents it."""
    try:
        return _guided(what, schema, lenient=True), ""
    except UnenforceableError as error:
        return "", error.keyword
    except InvalidRequestError:
        return "", SIZE


def _guided(what: str, schema: Any, *, lenient: bool) -> str:
    simple = json.loads(json_schema.to_text(what, json_schema.closed(schema)))
    return json.dumps({**simple, "x-guidance": {**JSON_STYLE, "lenient": lenient}})
