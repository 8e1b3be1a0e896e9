"""pydantic-ai: an agent with two tools and typed outputs, over chat and over responses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from weather import QUESTION, THANKS, Report, get_time, get_weather


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
def model(request: pytest.FixtureRequest, base_url: str) -> Any:
    return request.param("chat", provider=OpenAIProvider(base_url=base_url, api_key="none"))


class CallsFirst(AbstractCapability[None]):
    """Requires a call in the first step, and an output in the second."""

    def get_model_settings(self) -> Any:
        return lambda context: {"tool_choice": "required" if context.run_step == 1 else "none"}


def agent(model: Any, output: Any = str) -> Agent[None, Any]:
    return Agent(
        model,
        instructions="Be brief.",
        tools=[get_weather, get_time],
        output_type=output,
        model_settings={"temperature": 0, "parallel_tool_calls": False},
        capabilities=[CallsFirst()],
    )


def kinds_of(messages: list[Any]) -> list[str]:
    return [part.part_kind for message in messages for part in message.parts]


async def test_agent(model: Any) -> None:
    made = agent(model)
    first = await made.run(QUESTION)
    kinds = kinds_of(first.all_messages())
    assert {"tool-call", "tool-return", "text"} <= set(kinds)
    assert first.output
    second = await made.run(THANKS, message_history=first.all_messages())
    assert second.output


async def test_agent_streamed(model: Any) -> None:
    made = agent(model)
    async with made.run_stream(QUESTION) as first:
        text = "".join([piece async for piece in first.stream_text(delta=True)])
    assert text == await first.get_output()
    async with made.run_stream(THANKS, message_history=first.all_messages()) as second:
        assert await second.get_output()


@pytest.mark.parametrize("output", [ToolOutput, NativeOutput])
async def test_output_type(model: Any, output: Any) -> None:
    made = agent(model, output(Report))
    first = await made.run(QUESTION)
    assert isinstance(first.output, Report)
    second = await made.run(THANKS, message_history=first.all_messages())
    assert isinstance(second.output, Report)
