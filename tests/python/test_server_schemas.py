"""Schemas of tools and answers over HTTP: what is enforced, and reports of the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Served, serve_with_tools
from test_chat import CALLS, WEATHER

HEADER = "x-llamaherd-unenforced"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@pytest.fixture(scope="module")
def served(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_with_tools(model_path, tmp_path_factory.mktemp("config")) as served:
        yield served


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=120) as http:
        yield http


def tool(name: str, parameters: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def ask(http: httpx.Client, path: str, *tools: dict[str, Any], **more: Any) -> httpx.Response:
    if path == CHAT:
        body = {"messages": CALLS, "tools": tools, "max_tokens": 120, "temperature": 0}
    else:
        flat = [{"type": "function", **tool["function"]} for tool in tools]
        body = {"input": "Call a tool.", "tools": flat, "max_output_tokens": 3}
    return http.post(path, json={**body, **more})


BOOLEANS = {
    "type": "object",
    "properties": {
        "a": True,
        "list": {"type": "array", "items": True},
        "either": {"anyOf": [True, {"type": "string"}]},
        "self": {"$ref": "#"},
        "more": {"type": "object", "additionalProperties": {}},
    },
}
ODD = {
    "type": "object",
    "properties": {
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "n": {"type": "integer", "not": {"const": 3}},
    },
}


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_whose_schema_is_not_enforced_is_told(
    served: Served, http: httpx.Client, path: str, stream: bool
) -> None:
    tools = [WEATHER, tool("booleans", BOOLEANS), tool("odd", ODD)]
    answer = ask(http, path, *tools, stream=stream)
    assert answer.status_code == 200, answer.text
    assert answer.headers[HEADER] == "odd.not,odd.uniqueItems"
    answer = ask(http, path, *tools[:2], stream=stream)
    assert answer.status_code == 200, answer.text
    assert HEADER not in answer.headers


def test_the_other_tools_are_enforced(http: httpx.Client) -> None:
    answer = ask(http, CHAT, WEATHER, tool("odd", ODD))
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"])["unit"] in ("celsius", "kelvin")


def test_each_tool_is_logged_once(served: Served, http: httpx.Client) -> None:
    for _ in range(3):
        assert ask(http, CHAT, WEATHER, tool("logged", ODD), max_tokens=1).status_code == 200
    line = json.loads(served.logged('"tool": "logged"'))
    assert line["logger"] == "llamaherd.structured_output"
    assert line["level"] == "warning"
    assert line["keyword"] == "not, uniqueItems"
    assert sum('"tool": "logged"' in line for line in served.lines) == 1


def test_the_header_is_short_ascii(http: httpx.Client) -> None:
    tools = [tool(f"größe, {i}", ODD) for i in range(50)]
    answer = ask(http, CHAT, *tools, max_tokens=1)
    assert answer.status_code == 200, answer.text
    value = answer.headers[HEADER]
    assert value.startswith("gr%C3%B6%C3%9Fe%2C%200.not,gr%C3%B6%C3%9Fe%2C%200.uniqueItems,")
    assert value.endswith(",...")
    assert len(value) <= 1024


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_strict_tool_is_refused_by_the_keyword(http: httpx.Client, path: str) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 3}}}}
    answer = ask(http, path, WEATHER, tool("odd", parameters, strict=True))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "the parameters of tool 'odd' must be enforced (strict: true), but cannot be: this use of "
        "not is not supported"
    )
    answer = ask(http, path, WEATHER, tool("good", BOOLEANS, strict=True))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "array", "uniqueItems": True}, "this use of uniqueItems is not supported"),
        (
            {"propertyNames": {"not": {"const": "a"}}},
            "this use of propertyNames is not supported",
        ),
        ({"type": "strin"}, "type in json_schema must be one of null, boolean, number,"),
        (
            {"type": "object", "patternProperties": {"^a": {"type": "integer"}, "b$": {}}},
            "patterns of patternProperties may match the same name",
        ),
        ({"type": "string", "pattern": "a(?=b)"}, "look-ahead and look-behind, is not"),
    ],
)
def test_a_response_format_is_refused_by_the_keyword(
    http: httpx.Client, schema: Any, message: str
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"messages": CALLS, "response_format": wanted, "max_tokens": 40}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]["message"]
    assert message in error
    assert "\n" not in error


def test_beside_tools_a_response_format_is_refused_as_alone(http: httpx.Client) -> None:
    schema = {"type": "array", "uniqueItems": True}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = ask(http, CHAT, WEATHER, response_format=wanted)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]["message"]
    assert error == "json_schema cannot be used: this use of uniqueItems is not supported"


def test_the_log_holds_json_only(served: Served, http: httpx.Client) -> None:
    parameters = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "pattern": "unanchored"},
            "b": {"type": "string", "pattern": "a(?=b)"},
        },
    }
    for choice in ("auto", "required", "none"):
        answer = ask(http, CHAT, tool("p", parameters), tool_choice=choice, max_tokens=2)
        assert answer.status_code == 200, answer.text
    served.logged('"tool": "p"')
    for line in served.lines:
        json.loads(line)
