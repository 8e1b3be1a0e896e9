"""Tool calls and thoughts over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from serving import Served, serve_with_tools
from test_chat import CALLS, THOUGHTS, WEATHER


@pytest.fixture(scope="module")
def served(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_with_tools(model_path, tmp_path_factory.mktemp("config")) as served:
        yield served


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


def test_tool_calls_over_http(served: Served) -> None:
    with OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        options: dict[str, Any] = {
            "model": "chat",
            "messages": CALLS,
            "tools": [WEATHER],
            "temperature": 0,
            "max_tokens": 120,
        }
        whole = client.chat.completions.create(**options)
        (choice,) = whole.choices
        assert choice.finish_reason == "tool_calls"
        (made,) = choice.message.tool_calls or ()
        assert made.type == "function"
        assert json.loads(made.function.arguments)["city"] == "Paris"
        name, arguments, reason = "", "", None
        for chunk in client.chat.completions.create(stream=True, **options):
            for call in chunk.choices[0].delta.tool_calls or ():
                name += call.function.name or "" if call.function else ""
                arguments += call.function.arguments or "" if call.function else ""
            reason = chunk.choices[0].finish_reason or reason
        assert (name, arguments, reason) == (
            "get_weather",
            made.function.arguments,
            "tool_calls",
        )


def test_tool_calls_of_responses(served: Served) -> None:
    with OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        items: list[Any] = []
        for message in CALLS:
            items += [
                {"type": "function_call", "call_id": call["id"], **call["function"]}
                for call in message.get("tool_calls", ())
            ]
            if message["role"] == "user":
                items.append(message)
        options: dict[str, Any] = {
            "model": "chat",
            "input": items,
            "tools": [{"type": "function", **WEATHER["function"]}],
            "temperature": 0,
            "max_output_tokens": 120,
        }
        whole = client.responses.create(**options)
        (item,) = whole.output
        assert item.type == "function_call"
        assert json.loads(item.arguments)["city"] == "Paris"
        events = list(client.responses.create(stream=True, **options))
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == item.arguments
        last: Any = events[-1]
        assert last.type == "response.completed"
        assert last.response.output[0].arguments == item.arguments


def test_thoughts_over_http(http: httpx.Client) -> None:
    body = {"messages": THOUGHTS, "temperature": 0, "max_tokens": 60}
    message = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["reasoning_content"].startswith("It is ")
    body["reasoning_effort"] = "none"
    message = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert "reasoning_content" not in message


def test_effort_and_budget_over_http(http: httpx.Client) -> None:
    body: dict[str, Any] = {"model": "chat", "messages": THOUGHTS, "temperature": 0}

    def reasoning(**options: Any) -> str:
        answer = http.post("/v1/chat/completions", json={**body, **options}).json()
        return str(answer["choices"][0]["message"].get("reasoning_content", ""))

    free = reasoning()
    assert reasoning(reasoning_effort="extreme") == free
    bound = reasoning(thinking_budget_tokens=2).strip()
    assert free != bound
    assert free.startswith(bound)
    assert reasoning(reasoning={"max_tokens": 2, "effort": "low"}).strip() == bound
    assert reasoning(reasoning={"effort": "none"}) == ""
    assert reasoning(reasoning={"enabled": False, "effort": "high"}) == ""
    assert reasoning(reasoning={"enabled": True, "effort": "low"}) == free


def test_usage_counts_reasoning(http: httpx.Client) -> None:
    body = {"messages": THOUGHTS, "temperature": 0, "stream_options": {"include_usage": True}}
    whole = http.post("/v1/chat/completions", json={**body, "stream_options": None}).json()
    usage = whole["usage"]
    n_reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < n_reasoning < usage["completion_tokens"]
    lines = http.post("/v1/chat/completions", json={**body, "stream": True}).text.splitlines()
    last = json.loads([line for line in lines if line.startswith("data: {")][-1][6:])
    assert last["usage"]["completion_tokens_details"] == usage["completion_tokens_details"]
    items: list[Any] = []
    for message in THOUGHTS:
        if text := message.get("reasoning_content"):
            content = [{"type": "reasoning_text", "text": text}]
            items.append({"type": "reasoning", "summary": [], "content": content})
        items.append({"role": message["role"], "content": message["content"]})
    answer = http.post("/v1/responses", json={"input": items, "temperature": 0}).json()
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": n_reasoning}


def test_required_calls_and_answers_under_a_schema_over_http(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    body = {"model": "chat", "tools": [WEATHER], "temperature": 0, "max_tokens": 200}
    ask = {"role": "user", "content": "5 + 1"}
    required = {**body, "messages": [ask], "tool_choice": "required"}
    (choice,) = http.post("/v1/chat/completions", json=required).json()["choices"]
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"]
    format_ = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    either = {**body, "messages": THOUGHTS, "response_format": format_}
    (choice,) = http.post("/v1/chat/completions", json=either).json()["choices"]
    assert isinstance(json.loads(choice["message"]["content"])["sum"], int)
