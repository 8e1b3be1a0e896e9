"""Tools of /v1/responses: functions, namespaces of functions, and other types."""

from __future__ import annotations

from typing import Any

import pytest
from llamaherd.server.api.body_schema import strict_fields
from llamaherd.server.api.item_messages import messages_of_items
from llamaherd.server.api.json_bounds import require_bounded
from llamaherd.server.api.response_tools import functions_of, names_in_prompt
from llamaherd.server.api.responses_request import ResponsesRequest
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits
from pydantic import ValidationError

READ = {"type": "function", "name": "read", "parameters": {"type": "object"}}
SEARCH = {"type": "web_search", "external_web_access": False}
PATCH = {"type": "custom", "name": "patch", "format": {"type": "text"}}
NOTES = {"type": "namespace", "name": "mcp__notes", "description": "Notes.", "tools": [READ, PATCH]}
MAIL = {"type": "namespace", "name": "mail__", "tools": [READ]}


def body(*tools: Any, **fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"input": "Hi", "tools": list(tools), **fields})


def names(request: ResponsesRequest) -> list[str]:
    return [tool["function"]["name"] for tool in functions_of(request.tools or ())]


def test_functions_of_namespaces_have_names_of_their_own() -> None:
    request = body(READ, NOTES, MAIL)
    assert names(request) == ["read", "mcp__notes__read", "mail__read"]
    assert names_in_prompt(request.tools or ()) == {
        "mcp__notes__read": ("mcp__notes", "read"),
        "mail__read": ("mail__", "read"),
    }
    function = functions_of(request.tools or ())[1]["function"]
    assert function == {"name": "mcp__notes__read", "parameters": {"type": "object"}}


def test_a_call_in_the_history_has_the_name_in_the_prompt() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"}
    items = body(NOTES, input=[{**call, "namespace": "mcp__notes"}, call]).input
    assert not isinstance(items, str)
    (message,) = messages_of_items(items)
    made = [tool_call["function"]["name"] for tool_call in message["tool_calls"]]
    assert made == ["mcp__notes__read", "read"]


def test_tools_of_other_types_are_left_out_beside_functions() -> None:
    assert names(body(SEARCH, READ, PATCH, {"type": "tool_search"})) == ["read"]
    assert names(body(SEARCH, NOTES)) == ["mcp__notes__read"]


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([SEARCH], "must contain a function: tools of type web_search are not supported"),
        ([SEARCH, PATCH], "must contain a function: tools of type custom, web_search are not"),
        ([{**NOTES, "tools": [PATCH]}, SEARCH], "must contain a function"),
        ([READ, {"type": "local_shell"}], "tools of type local_shell are not supported"),
        ([READ, {"type": "fnuction"}], "tools of type fnuction are not supported"),
        ([{**NOTES, "tools": [SEARCH, {"type": "mcp"}]}], "tools of type mcp are not supported"),
        ([{"type": "namespace", "name": "a"}], "tools"),
        ([{"type": "namespace", "name": "", "tools": [READ]}], "name"),
    ],
)
def test_tools_that_cannot_be_served_are_refused_by_name(tools: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        body(*tools)


def test_strict_fields_refuses_other_types() -> None:
    token = strict_fields.set(True)
    try:
        with pytest.raises(ValidationError, match="tools of type web_search are not supported"):
            body(READ, SEARCH)
    finally:
        strict_fields.reset(token)


def test_functions_of_namespaces_count_as_tools() -> None:
    limits = Limits(max_tools=3)
    value = {"input": "Hi", "tools": [READ, {**NOTES, "tools": [READ, READ]}]}
    require_bounded(value, "/v1/responses", "input", limits)
    value["tools"] += [READ]
    with pytest.raises(ApiError, match="tools must hold at most 3"):
        require_bounded(value, "/v1/responses", "input", limits)
