"""Tools of /v1/responses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from llamaherd.server.api.body_schema import Body, ByType, WithoutEffect, strict_fields

_logger = logging.getLogger("llamaherd.server")


class FunctionTool(Body):
    type: Literal["function"]
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: Annotated[
        dict[str, Any] | None, WithoutEffect("results of calls are text to the model")
    ] = None
    defer_loading: Annotated[bool | None, WithoutEffect("all tools are in the prompt")] = None
    allowed_callers: Annotated[list[str] | None, WithoutEffect("the model itself calls tools")] = (
        None
    )
    is_async: Annotated[
        Literal[False] | None, WithoutEffect("the next request has the results of calls")
    ] = Field(None, alias="async")


class LeftOutTool(Body):
    """A tool that agents declare beside their functions by default. It is not in the prompt."""

    model_config = ConfigDict(extra="ignore")
    left_out: ClassVar[str] = "left out of the prompt beside functions; without them, refused"

    type: Literal["custom", "image_generation", "tool_search", "web_search"]

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        kind = body.get("type")
        if strict_fields.get():
            raise PydanticCustomError(
                "unsupported_type",
                "tools of type {type} are not supported (--strict-fields)",
                {"type": kind},
            )
        return {"type": kind}


@cache  # once per process
def _note_left_out(kind: str) -> None:
    _logger.warning("tools are left out of prompts", extra={"type": kind})


def _kept(tools: Sequence[Body]) -> list[Any]:
    """The tools without those that are left out."""
    for tool in tools:
        if isinstance(tool, LeftOutTool):
            _note_left_out(tool.type)
    return [tool for tool in tools if not isinstance(tool, LeftOutTool)]


# To users of the schemas the lists hold no tool that is left out.
if TYPE_CHECKING:
    _NamespaceTools = list[FunctionTool]
else:
    _NamespaceTools = Annotated[
        list[Annotated[FunctionTool | LeftOutTool, ByType("tools")]], AfterValidator(_kept)
    ]


class NamespaceTool(Body):
    """Functions whose names are unique within the namespace only."""

    type: Literal["namespace"]
    name: str = Field(min_length=1)
    description: str = Field("", description="Not in the prompt: templates know no namespaces.")
    tools: _NamespaceTools


def _kept_beside_functions(tools: Sequence[Body]) -> list[Any]:
    """The tools without those that are left out.

    Raises:
      PydanticCustomError: No function is left.
    """
    kept = _kept(tools)
    if len(kept) < len(tools) and not functions_of(kept):
        kinds = {tool.type for tool in tools if isinstance(tool, LeftOutTool)}
        raise PydanticCustomError(
            "unsupported_type",
            "must contain a function: tools of type {types} are not supported",
            {"types": ", ".join(sorted(kinds))},
        )
    return kept


OfferedTool = FunctionTool | NamespaceTool
if TYPE_CHECKING:
    ResponseTools = list[OfferedTool]
else:
    ResponseTools = Annotated[
        list[Annotated[OfferedTool | LeftOutTool, ByType("tools")]],
        Field(fail_fast=True),
        AfterValidator(_kept_beside_functions),
    ]


def name_in_prompt(name: str, namespace: str | None) -> str:
    """The name under which a function is offered to the model."""
    if not namespace:
        return name
    return namespace + ("" if namespace.endswith("__") else "__") + name


def names_in_prompt(tools: Sequence[OfferedTool]) -> dict[str, tuple[str, str]]:
    """Namespace and name of the functions of namespaces, by the name in the prompt."""
    return {
        name_in_prompt(function.name, tool.name): (tool.name, function.name)
        for tool in tools
        if isinstance(tool, NamespaceTool)
        for function in tool.tools
    }


def functions_of(tools: Sequence[OfferedTool]) -> list[dict[str, Any]]:
    """The functions in the format of /v1/chat/completions."""
    made = []
    for tool in tools:
        namespace, functions = (
            (tool.name, tool.tools) if isinstance(tool, NamespaceTool) else (None, [tool])
        )
        for function in functions:
            fields = function.model_dump(exclude={"type"}, exclude_none=True)
            fields["name"] = name_in_prompt(function.name, namespace)
            made.append({"type": "function", "function": fields})
    return made
