"""openai-agents: an agent with two tools, over chat and over responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from weather import QUESTION, THANKS, City, Report, Unit, get_time, get_weather

set_tracing_disabled(True)


@pytest.fixture(params=[OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def model(request: pytest.FixtureRequest, base_url: str) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield request.param(model="chat", openai_client=client)


def agent(model: Any, **options: Any) -> Agent[Any]:
    return Agent(
        name="weather",
        instructions="Be brief.",
        model=model,
        # After the first call the framework lets the model choose.
        model_settings=ModelSettings(
            temperature=0, tool_choice="required", parallel_tool_calls=False
        ),
        **{"tools": [function_tool(get_weather), function_tool(get_time)], **options},
    )


async def test_agent(model: Any) -> None:
    made = agent(model)
    first = await Runner.run(made, QUESTION, max_turns=8)
    kinds = [item.type for item in first.new_items]
    assert kinds[:2] == ["tool_call_item", "tool_call_output_item"]
    assert first.final_output
    items = [*first.to_input_list(), {"role": "user", "content": THANKS}]
    second = await Runner.run(made, items, max_turns=8)
    assert second.final_output


async def test_agent_streamed(model: Any) -> None:
    made = agent(model)
    first = Runner.run_streamed(made, QUESTION, max_turns=8)
    kinds = [
        event.name async for event in first.stream_events() if event.type == "run_item_stream_event"
    ]
    assert {"tool_called", "tool_output", "message_output_created"} <= set(kinds)
    items = [*first.to_input_list(), {"role": "user", "content": THANKS}]
    second = Runner.run_streamed(made, items, max_turns=8)
    async for _ in second.stream_events():
        pass
    assert second.final_output


async def test_output_type(model: Any) -> None:
    told: list[City] = []

    def once(city: City, unit: Unit) -> str:
        """Tell the weather in a city."""
        told.append(city)
        return get_weather(city, unit)

    # A weak model would go on calling.
    tool = function_tool(once, is_enabled=lambda *_: not told)
    made = agent(model, output_type=Report, tools=[tool])
    result = await Runner.run(made, QUESTION, max_turns=8)
    assert told
    assert isinstance(result.final_output, Report)
