"""Tools on a chat template that has none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamaherd import BatchEngine, ChatOptions, EngineConfig, MessageReader, SamplingParams
from test_chat import TIME, TOOLS, WEATHER, answer, call, user

RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"}


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[BatchEngine]:
    with BatchEngine(model_path, EngineConfig(n_ctx=4096, n_threads=1, warmup=False)) as engine:
        yield engine


def test_the_prompt_describes_tools_calls_and_results(engine: BatchEngine) -> None:
    system = {"role": "system", "content": "Be brief."}
    messages = [system, user("Rome"), call("Rome"), RESULT, user("Oslo")]
    text = engine.apply_chat_template(messages, TOOLS).text
    begin, *turns = text.split("<|im_start|>")[1:]
    assert begin.startswith("system\nBe brief.\n\nYou may call these tools:\n")
    for tool in (WEATHER, TIME):
        function: Any = tool["function"]
        assert json.dumps(function["parameters"]).replace(" ", "") in begin.replace(" ", "")
    assert turns[1].startswith('assistant\n<tool_call>\n{"name": "get_weather", "arguments": {')
    assert turns[2].startswith("user\n<tool_response>\n21 degrees\n</tool_response>\n\nWhat is")
    assert turns[3] == "assistant\n"


def test_without_a_system_message_the_tools_stand_in_one(engine: BatchEngine) -> None:
    text = engine.apply_chat_template([user("Rome")], TOOLS).text
    assert text.startswith("<|im_start|>system\nYou may call these tools:")


def test_a_history_with_calls_needs_no_tools(engine: BatchEngine) -> None:
    text = engine.apply_chat_template([user("Rome"), call("Rome"), RESULT]).text
    assert "You may call" not in text
    assert "<tool_response>\n21 degrees\n</tool_response>" in text


@pytest.mark.parametrize("choice", ["required", "get_time"])
def test_a_required_call_is_made(engine: BatchEngine, choice: str) -> None:
    chat = ChatOptions(tools=[WEATHER, TIME], tool_choice=choice)
    params = SamplingParams(seed=1, max_tokens=200)
    reply = answer(engine, [user("Rome")], chat, params)
    assert not reply.content.strip()
    made = reply.tool_calls[0]
    assert choice in ("required", made.name)
    assert isinstance(json.loads(made.arguments), dict)


def test_a_call_is_read_from_the_answer(engine: BatchEngine) -> None:
    read = MessageReader(engine.apply_chat_template([user("Rome")], TOOLS).format)
    text = 'Let me see.\n<tool_call>\n{"name": "get_time", "arguments": {"zone": 3}}\n</tool_call>'
    reply = read.read_all(text)
    assert reply.content.strip() == "Let me see."
    (made,) = reply.tool_calls
    assert (made.name, json.loads(made.arguments)) == ("get_time", {"zone": 3})
