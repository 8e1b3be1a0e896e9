"""openai: chat and responses, with their helpers for parsing and streaming."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from weather import QUESTION, RESULT, THANKS, TIME_SCHEMA, WEATHER_SCHEMA, Report

_FUNCTIONS: list[dict[str, Any]] = [
    {"name": "get_weather", "parameters": WEATHER_SCHEMA, "strict": True},
    {"name": "get_time", "parameters": TIME_SCHEMA, "strict": True},
]
CHAT_TOOLS: Any = [{"type": "function", "function": function} for function in _FUNCTIONS]
TOOLS: Any = [{"type": "function", **function} for function in _FUNCTIONS]
# A weak model would call again and again.
OPTIONS = {"model": "chat", "temperature": 0, "parallel_tool_calls": False}
WEATHER_IN_CHAT: Any = {"type": "function", "function": {"name": "get_weather"}}
WEATHER: Any = {"type": "function", "name": "get_weather"}


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


def question() -> list[Any]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]


def answered(message: Any) -> list[Any]:
    """The message as a client sends it back, with the results of its calls."""
    calls = message.tool_calls
    assert calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in calls]
    return [message.model_dump(), *results]


def require_weather(name: str, arguments: str) -> None:
    assert name == "get_weather"
    assert set(json.loads(arguments)) == {"city", "unit"}


def test_chat(client: OpenAI) -> None:
    messages = question()
    options: dict[str, Any] = {**OPTIONS, "tools": CHAT_TOOLS}
    first = client.chat.completions.create(
        messages=messages, tool_choice=WEATHER_IN_CHAT, **options
    )
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    require_weather(call.function.name, call.function.arguments)
    messages += answered(choice.message)
    second = client.chat.completions.create(messages=messages, tool_choice="none", **options)
    message = second.choices[0].message
    assert message.content
    messages += [message.model_dump(), {"role": "user", "content": THANKS}]
    third = client.chat.completions.create(messages=messages, tool_choice="required", **options)
    assert third.choices[0].finish_reason == "tool_calls"


def test_chat_streamed(client: OpenAI) -> None:
    messages = question()
    options: dict[str, Any] = {**OPTIONS, "tools": CHAT_TOOLS}
    name, arguments, id_, reason = "", "", "", None
    for chunk in client.chat.completions.create(
        messages=messages,
        tool_choice=WEATHER_IN_CHAT,
        stream=True,
        stream_options={"include_usage": True},
        **options,
    ):
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for delta in choice.delta.tool_calls or ():
                assert delta.index == 0
                id_ += delta.id or ""
                assert delta.function
                name += delta.function.name or ""
                arguments += delta.function.arguments or ""
    assert reason == "tool_calls"
    assert chunk.usage
    require_weather(name, arguments)
    call = {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
    messages += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": id_, "content": RESULT},
    ]
    stream = client.chat.completions.create(
        messages=messages, tool_choice="none", stream=True, **options
    )
    assert "".join(c.choices[0].delta.content or "" for c in stream)


def test_chat_stream_helper(client: OpenAI) -> None:
    messages = question()
    options: dict[str, Any] = {**OPTIONS, "tools": CHAT_TOOLS}
    with client.chat.completions.stream(
        messages=messages, tool_choice="required", **options
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert all(call.function.parsed_arguments for call in message.tool_calls or ())
    messages += answered(message)
    with client.chat.completions.stream(messages=messages, tool_choice="none", **options) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content
    assert {"content.delta", "content.done"} <= kinds


def test_chat_parsed(client: OpenAI) -> None:
    messages = question()
    options: dict[str, Any] = {"model": "chat", "response_format": Report, "temperature": 0}
    first = client.chat.completions.parse(messages=messages, **options).choices[0].message
    assert isinstance(first.parsed, Report)
    messages += [first.model_dump(), {"role": "user", "content": THANKS}]
    second = client.chat.completions.parse(messages=messages, **options).choices[0].message
    assert isinstance(second.parsed, Report)
    with client.chat.completions.stream(messages=messages, **options) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.parsed == second.parsed


def test_chat_parsed_with_tools(client: OpenAI) -> None:
    messages = question()
    options: dict[str, Any] = {**OPTIONS, "tools": CHAT_TOOLS, "response_format": Report}
    first = client.chat.completions.parse(messages=messages, tool_choice="required", **options)
    messages += answered(first.choices[0].message)
    second = client.chat.completions.parse(messages=messages, tool_choice="none", **options)
    assert isinstance(second.choices[0].message.parsed, Report)


def results_of(output: Any) -> list[Any]:
    """The outputs of a response's calls."""
    calls = [item for item in output if item.type == "function_call"]
    assert calls
    return [
        {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
        for call in calls
    ]


def test_responses(client: OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": QUESTION}]
    options: dict[str, Any] = {
        **OPTIONS,
        "instructions": "Be brief.",
        "tools": TOOLS,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }
    first = client.responses.create(input=items, tool_choice=WEATHER, **options)
    (call,) = (item for item in first.output if item.type == "function_call")
    require_weather(call.name, call.arguments)
    items += [*first.output, *results_of(first.output)]
    second = client.responses.create(input=items, tool_choice="none", **options)
    assert second.output_text
    items += [*second.output, {"role": "user", "content": THANKS}]
    third = client.responses.create(input=items, tool_choice="required", **options)
    assert results_of(third.output)


def test_responses_streamed(client: OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": QUESTION}]
    options: dict[str, Any] = {**OPTIONS, "instructions": "Be brief.", "tools": TOOLS}
    with client.responses.stream(input=items, tool_choice=WEATHER, **options) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert kinds[-1] == "response.completed"
    items += [*first.output, *results_of(first.output)]
    with client.responses.stream(input=items, tool_choice="none", **options) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        second = stream.get_final_response()
    assert text
    assert second.output_text == text


def test_responses_parsed(client: OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": QUESTION}]
    options: dict[str, Any] = {"model": "chat", "text_format": Report, "temperature": 0}
    first = client.responses.parse(input=items, **options)
    assert isinstance(first.output_parsed, Report)
    items += [*first.output, {"role": "user", "content": THANKS}]
    second = client.responses.parse(input=items, **options)
    assert isinstance(second.output_parsed, Report)
    with client.responses.stream(input=items, **options) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == second.output_parsed
