"""LangChain: ChatOpenAI over chat and over responses, and an agent with two tools."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from weather import QUESTION, RESULT, THANKS, Report, get_time, get_weather


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest, base_url: str) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=base_url,
        api_key="none",
        model="chat",
        temperature=0,
        max_retries=0,
        stream_usage=True,
        use_responses_api=request.param == "responses",
    )


def question() -> list[Any]:
    return [SystemMessage("Be brief."), HumanMessage(QUESTION)]


def results_of(message: AIMessage) -> list[ToolMessage]:
    assert message.tool_calls
    return [ToolMessage(RESULT, tool_call_id=call["id"]) for call in message.tool_calls]


def test_tools(model: ChatOpenAI) -> None:
    messages = question()
    first = bound(model, "get_weather").invoke(messages)
    assert {call["name"] for call in first.tool_calls} == {"get_weather"}
    messages += [first, *results_of(first)]
    second = bound(model, "none").invoke(messages)
    assert second.text
    messages += [second, HumanMessage(THANKS)]
    third = bound(model, "required").invoke(messages)
    assert third.tool_calls


def bound(model: ChatOpenAI, choice: str) -> Any:
    return model.bind_tools([get_weather, get_time], tool_choice=choice, parallel_tool_calls=False)


def streamed(model: Any, messages: list[Any]) -> AIMessage:
    whole: Any = None
    for chunk in model.stream(messages):
        whole = chunk if whole is None else whole + chunk
    return whole


def test_tools_streamed(model: ChatOpenAI) -> None:
    messages = question()
    first = streamed(bound(model, "required"), messages)
    messages += [first, *results_of(first)]
    second = streamed(bound(model, "none"), messages)
    assert second.text
    assert second.usage_metadata


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatOpenAI, method: Any) -> None:
    structured = model.with_structured_output(Report, method=method, include_raw=True)
    messages = question()
    first: Any = structured.invoke(messages)
    assert isinstance(first["parsed"], Report), first
    raw = first["raw"]
    messages += [raw, *(results_of(raw) if raw.tool_calls else ()), HumanMessage(THANKS)]
    second: Any = structured.invoke(messages)
    assert isinstance(second["parsed"], Report), second


@wrap_model_call
def calls_first(request: Any, handler: Any) -> Any:
    """Requires a call as the answer to the user, and a text as the answer to a tool."""
    is_result = isinstance(request.messages[-1], ToolMessage)
    choice = "none" if is_result else "required"
    settings = {"parallel_tool_calls": False}
    return handler(request.override(tool_choice=choice, model_settings=settings))


def test_agent(model: ChatOpenAI) -> None:
    agent = create_agent(model, [get_weather, get_time], middleware=[calls_first])
    first = agent.invoke({"messages": question()})["messages"]
    kinds = [message.type for message in first[2:]]
    assert kinds[:2] == ["ai", "tool"]
    assert kinds[-1] == "ai"
    assert first[-1].text
    second = agent.invoke({"messages": [*first, HumanMessage(THANKS)]})["messages"]
    assert second[-1].text


def test_agent_streamed(model: ChatOpenAI) -> None:
    agent = create_agent(model, [get_weather, get_time], middleware=[calls_first])
    kinds = [
        message.type
        for message, _ in agent.stream({"messages": question()}, stream_mode="messages")
    ]
    assert {"AIMessageChunk", "tool"} <= set(kinds)
