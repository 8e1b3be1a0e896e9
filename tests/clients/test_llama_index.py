"""LlamaIndex: OpenAILike, alone and in a function agent with two tools."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context
from llama_index.llms.openai_like import OpenAILike
from weather import QUESTION, RESULT, THANKS, Report, get_time, get_weather


@pytest.fixture
def llm(base_url: str) -> OpenAILike:
    return OpenAILike(
        model="chat",
        api_base=base_url,
        api_key="none",
        context_window=16384,
        is_chat_model=True,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
        max_retries=0,
        temperature=0,
    )


@pytest.fixture
def tools() -> list[FunctionTool]:
    return [FunctionTool.from_defaults(get_weather), FunctionTool.from_defaults(get_time)]


def results_of(llm: OpenAILike, response: Any) -> list[ChatMessage]:
    calls = llm.get_tool_calls_from_response(response)
    return [
        ChatMessage(role="tool", content=RESULT, additional_kwargs={"tool_call_id": call.tool_id})
        for call in calls
    ]


def test_tools(llm: OpenAILike, tools: Any) -> None:
    history = [ChatMessage(role="user", content=QUESTION)]
    first = llm.chat_with_tools(tools, chat_history=history, tool_required=True)
    history += [first.message, *results_of(llm, first)]
    second = llm.chat_with_tools(tools, chat_history=history, tool_choice="none")
    assert second.message.content


def test_tools_streamed(llm: OpenAILike, tools: Any) -> None:
    history = [ChatMessage(role="user", content=QUESTION)]
    *_, first = llm.stream_chat_with_tools(tools, chat_history=history, tool_required=True)
    history += [first.message, *results_of(llm, first)]
    *_, second = llm.stream_chat_with_tools(tools, chat_history=history, tool_choice="none")
    assert second.message.content


def test_structured_output(llm: OpenAILike) -> None:
    made = llm.as_structured_llm(Report).chat([ChatMessage(role="user", content=QUESTION)])
    assert isinstance(made.raw, Report)


async def test_agent(llm: OpenAILike, tools: Any) -> None:
    agent = FunctionAgent(
        tools=tools, llm=llm, system_prompt="Be brief.", initial_tool_choice="required"
    )
    context = Context(agent)
    for question in (QUESTION, THANKS):
        handler = agent.run(question, ctx=context, max_iterations=8)
        kinds = {type(event) async for event in handler.stream_events()}
        assert {AgentStream, ToolCallResult} <= kinds
        assert str(await handler)
