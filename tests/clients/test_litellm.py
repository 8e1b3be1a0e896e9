"""LiteLLM as a client of an OpenAI-compatible server."""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest
from weather import QUESTION, RESULT, THANKS, TIME_SCHEMA, WEATHER_SCHEMA, Report

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in (("get_weather", WEATHER_SCHEMA), ("get_time", TIME_SCHEMA))
]


@pytest.fixture
def options(base_url: str) -> dict[str, Any]:
    return {
        "model": "openai/chat",
        "api_base": base_url,
        "api_key": "none",
        "max_retries": 0,
        "temperature": 0,
        "parallel_tool_calls": False,
    }


def results_of(message: Any) -> list[Any]:
    assert message.tool_calls
    for call in message.tool_calls:
        json.loads(call.function.arguments)
    return [
        {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": RESULT}
        for call in message.tool_calls
    ]


def test_tools(options: dict[str, Any]) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    made: Any = litellm.completion(
        messages=messages, tools=TOOLS, tool_choice="required", **options
    )
    first = made.choices[0].message
    messages += [first, *results_of(first)]
    made = litellm.completion(messages=messages, tools=TOOLS, tool_choice="none", **options)
    second = made.choices[0].message
    assert second.content
    messages += [second, {"role": "user", "content": THANKS}]
    made = litellm.completion(messages=messages, tools=TOOLS, tool_choice="required", **options)
    assert made.choices[0].message.tool_calls


def test_tools_streamed(options: dict[str, Any]) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    options |= {"tools": TOOLS, "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(litellm.completion(messages=messages, tool_choice="required", **options))
    first = litellm.stream_chunk_builder(chunks, messages=messages).choices[0].message
    messages += [first.model_dump(), *results_of(first)]
    chunks = list(litellm.completion(messages=messages, tool_choice="none", **options))
    whole: Any = litellm.stream_chunk_builder(chunks, messages=messages)
    assert whole.choices[0].message.content
    assert whole.usage.prompt_tokens


def test_response_format(options: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    del options["parallel_tool_calls"]
    made: Any = litellm.completion(messages=messages, response_format=Report, **options)
    Report.model_validate_json(made.choices[0].message.content)
