"""Tool calls and thoughts, told apart from what the model says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import TOOLS_AND_THOUGHTS
from llamaherd import (
    AssistantMessage,
    BatchEngine,
    ChatOptions,
    EngineConfig,
    InvalidRequestError,
    MessageReader,
    SamplingParams,
)
from llamaherd.structured_output.guides import GuideCache
from llamaherd.structured_output.rule import Rule

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["zone"],
        },
    },
}
TOOLS = ChatOptions(tools=[WEATHER, TIME])
GREEDY = SamplingParams(temperature=0, max_tokens=120)
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "unit": "kelvin"}}\n'
CALL_END = "</tool_call>"


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[BatchEngine]:
    config = EngineConfig(n_ctx=4096, n_threads=1, chat_template=TOOLS_AND_THOUGHTS, warmup=False)
    with BatchEngine(model_path, config) as engine:
        yield engine


def user(city: str) -> dict[str, Any]:
    return {"role": "user", "content": f"What is the weather in {city}, in celsius?"}


def call(city: str) -> dict[str, Any]:
    arguments = json.dumps({"city": city, "unit": "celsius"})
    function = {"name": "get_weather", "arguments": arguments}
    tool_call = {"type": "function", "id": "call_1", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [tool_call]}


# A small model does what was done before.
CALLS = [m for city in ("Rome", "London", "Berlin") for m in (user(city), call(city))]
CALLS.append(user("Paris"))
THOUGHTS = [
    message
    for n in (2, 3, 4)
    for message in (
        {"role": "user", "content": f"{n} + 1"},
        {"role": "assistant", "content": f"{n + 1}", "reasoning_content": f"It is {n + 1}."},
    )
]
THOUGHTS.append({"role": "user", "content": "5 + 1"})


def reader(engine: BatchEngine, chat: ChatOptions = TOOLS) -> MessageReader:
    return MessageReader(engine.apply_chat_template(CALLS, chat).format)


def answer(
    engine: BatchEngine, messages: list[Any], chat: ChatOptions, params: SamplingParams = GREEDY
) -> AssistantMessage:
    """The answer, after its deltas were found to add up to it."""
    stream = engine.submit(messages, params, chat=chat)
    read = stream.new_reader()
    assert read is not None
    pieces = [read.read(delta) for delta in stream]
    result = stream.result(timeout=120)
    assert not result.error
    reply = result.reply
    assert reply is not None
    assert "".join(piece.content for piece in pieces) == reply.content
    assert "".join(piece.reasoning for piece in pieces) == reply.reasoning
    assert added_calls(pieces) == [(c.name, c.arguments) for c in reply.tool_calls]
    return reply


def added_calls(pieces: list[AssistantMessage]) -> list[tuple[str, str]]:
    calls: list[list[str]] = []
    for added in (c for piece in pieces for c in piece.tool_calls):
        if added.index == len(calls):
            assert added.id
            assert added.name
            calls.append([added.name, ""])
        else:
            assert (added.id, added.name) == ("", "")
        calls[added.index][1] += added.arguments
    return [(name, arguments) for name, arguments in calls]


def test_members_of_tools_that_are_none_are_absent(engine: BatchEngine) -> None:
    function = {**TIME["function"], "description": None, "strict": None}
    nulls = {**TIME, "function": function, "cache_control": None}
    prompts = [
        engine.apply_chat_template(CALLS, ChatOptions(tools=[tool])).text for tool in (TIME, nulls)
    ]
    assert prompts[0] == prompts[1]
    bare = {"type": "function", "function": {"name": "f", "description": None, "parameters": None}}
    assert engine.apply_chat_template(CALLS, ChatOptions(tools=[bare], tool_choice="f")).rule


def test_the_model_calls_a_tool(engine: BatchEngine) -> None:
    (made,) = answer(engine, CALLS, TOOLS).tool_calls
    assert made.name == "get_weather"
    assert json.loads(made.arguments) == {"city": "Paris", "unit": "celsius"}
    assert made.id.startswith("call_")


def test_the_same_tools_are_made_ready_once(engine: BatchEngine) -> None:
    first = engine.apply_chat_template(CALLS, TOOLS).format
    assert first is not None
    assert engine.apply_chat_template([user("Oslo")], TOOLS).format is first
    for other in (ChatOptions(tools=[TIME]), replace(TOOLS, tool_choice="required")):
        assert engine.apply_chat_template(CALLS, other).format is not first
    for i in range(80):  # more than are kept
        tool = {"type": "function", "function": {"name": f"tool_{i}"}}
        engine.apply_chat_template([user("Oslo")], ChatOptions(tools=[tool]))
    again = engine.apply_chat_template([user("Oslo")], TOOLS).format
    assert again is not first
    assert again is not None
    assert again.parse("hello").content == "hello"


@pytest.mark.parametrize("seed", range(3))
def test_a_call_obeys_its_tools_schema(engine: BatchEngine, seed: int) -> None:
    # The model would call the tool it sees called above: the grammar begins where a call does.
    chat = ChatOptions(tools=[TIME], parallel_tool_calls=False)
    params = SamplingParams(temperature=1, seed=seed, max_tokens=120)
    (made,) = answer(engine, CALLS, chat, params).tool_calls
    assert made.name == "get_time"
    assert json.loads(made.arguments)["zone"] in range(10)


def test_the_tool_that_was_chosen_is_called(engine: BatchEngine) -> None:
    chat = ChatOptions(tools=[WEATHER, TIME], tool_choice="get_time", parallel_tool_calls=False)
    (made,) = answer(engine, CALLS, chat).tool_calls
    assert made.name == "get_time"


def test_without_tools_what_looks_like_a_call_is_content(engine: BatchEngine) -> None:
    for chat in (ChatOptions(thinking=False), ChatOptions(tools=[WEATHER], tool_choice="none")):
        assert not answer(engine, CALLS, chat).tool_calls


def test_each_output_has_calls_of_its_own(engine: BatchEngine) -> None:
    result = engine.submit(CALLS, SamplingParams(n=3, seed=1, max_tokens=120), chat=TOOLS).result()
    replies = [choice.reply for choice in result.choices]
    ids = {made.id for reply in replies if reply for made in reply.tool_calls}
    assert len(ids) == sum(len(reply.tool_calls) for reply in replies if reply)
    assert ids


def test_thoughts_are_told_apart(engine: BatchEngine) -> None:
    reply = answer(engine, THOUGHTS, ChatOptions())
    assert reply.reasoning.startswith("It is ")
    assert "think" not in reply.content + reply.reasoning
    assert reply.content


def test_the_grammar_of_calls_lets_thoughts_alone(engine: BatchEngine) -> None:
    messages = json.loads(
        json.dumps(THOUGHTS).replace("It is", "Calls begin with <tool_call>\\nhere:")
    )
    reply = answer(engine, messages, TOOLS)
    assert reply.reasoning.startswith("Calls begin with <tool_call>\nhere: ")
    assert not reply.tool_calls


def test_thinking_can_be_turned_off(engine: BatchEngine) -> None:
    assert not answer(engine, THOUGHTS, ChatOptions(thinking=False)).reasoning


@pytest.mark.parametrize("n_tokens", [0, 2])
def test_a_budget_ends_thoughts(engine: BatchEngine, n_tokens: int) -> None:
    free = answer(engine, THOUGHTS, ChatOptions())
    assert len(engine.tokenize(free.reasoning)) > n_tokens + 1
    bound = answer(engine, THOUGHTS, ChatOptions(thinking_budget=n_tokens))
    assert free.reasoning.startswith(bound.reasoning.strip())
    assert len(engine.tokenize(bound.reasoning)) <= n_tokens
    for chat in (ChatOptions(thinking_budget=999), replace(TOOLS, thinking_budget=999)):
        assert answer(engine, THOUGHTS, chat).reasoning == free.reasoning


def test_calls_follow_thoughts_under_a_budget(engine: BatchEngine) -> None:
    chat = replace(TOOLS, tool_choice="required", thinking_budget=4)
    for seed in range(3):
        reply = answer(engine, THOUGHTS, chat, SamplingParams(seed=seed, max_tokens=300))
        assert len(engine.tokenize(reply.reasoning)) <= 5
        assert not reply.content.strip()
        assert reply.tool_calls


def test_an_answer_under_a_schema_may_call_tools_instead(engine: BatchEngine) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    params = SamplingParams(json_schema=schema, temperature=0, max_tokens=120)
    (made,) = answer(engine, CALLS, TOOLS, params).tool_calls
    assert made.name == "get_weather"
    reply = answer(engine, THOUGHTS, TOOLS, params)
    assert isinstance(json.loads(reply.content)["sum"], int)
    with pytest.raises(InvalidRequestError, match="tools cannot be combined with regex"):
        engine.submit(CALLS, SamplingParams(regex="a"), chat=TOOLS)


def test_the_effort_reaches_the_template(model_path: Path) -> None:
    template = "{{ reasoning_effort | default('unset') }} {{ enable_thinking }}"
    config = EngineConfig(n_ctx=64, n_threads=1, warmup=False, chat_template=template)
    with BatchEngine(model_path, config) as engine:

        def rendered(chat: ChatOptions) -> str:
            return engine.apply_chat_template([user("Rome")], chat).text

        assert rendered(ChatOptions()) == "unset True"
        assert rendered(ChatOptions(reasoning_effort="max")) == "max True"
        assert rendered(ChatOptions(reasoning_effort="none")) == "none False"
        off = {"enable_thinking": False, "reasoning_effort": "mine"}
        assert rendered(ChatOptions(reasoning_effort="low", template_kwargs=off)) == "mine False"


@pytest.mark.parametrize("budget", [-1, 1.5, "3"])
def test_a_budget_is_a_number_of_tokens(budget: Any) -> None:
    with pytest.raises(InvalidRequestError, match="thinking_budget must be a number >= 0; got"):
        ChatOptions(thinking_budget=budget)


def test_an_answer_that_must_obey_a_rule_is_all_content(engine: BatchEngine) -> None:
    params = SamplingParams(regex="[0-9]", temperature=0)
    reply = engine.submit(THOUGHTS, params).result().reply
    assert reply is not None
    assert reply.content.isdigit()
    with pytest.raises(InvalidRequestError, match="cannot be combined with regex"):
        engine.submit(CALLS, params, chat=TOOLS)


def test_a_call_may_follow_words(engine: BatchEngine) -> None:
    reply = reader(engine).read_all("One moment. " + CALL + CALL_END)
    assert reply.content.strip() == "One moment."
    (made,) = reply.tool_calls
    assert json.loads(made.arguments) == {"city": "Oslo", "unit": "kelvin"}


def test_a_thought_of_a_call_is_no_call(engine: BatchEngine) -> None:
    text = "<think>\nShall I " + CALL + CALL_END + "?\n</think>\n\nNo."
    reply = reader(engine).read_all(text)
    assert "get_weather" in reply.reasoning
    assert (reply.content.strip(), reply.tool_calls) == ("No.", ())


def test_what_is_cut_short_loses_nothing_that_was_read(engine: BatchEngine) -> None:
    reply = reader(engine).read_all("Wait. " + CALL[:-10])
    assert reply.content.strip() == "Wait."
    assert [made.name for made in reply.tool_calls] == ["get_weather"]


def test_what_cannot_be_read_is_content(engine: BatchEngine) -> None:
    text = '<tool_call>\n{"name": 5}'
    assert reader(engine).read_all(text) == AssistantMessage(text)


def test_the_end_of_the_prompt_may_have_tokens_that_are_not_preserved(engine: BatchEngine) -> None:
    end, a = (engine.tokenize(text, add_special=False)[0] for text in ("<|im_end|>", "a"))
    rule = Rule(
        "tools",
        'root ::= "<|im_start|>assistant\\n" "a"',
        special=frozenset({end}),
        prefix="<|im_start|>assistant\n",
    )
    mask = GuideCache(engine._core).make(rule).first_mask
    allowed = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little"))
    assert a in allowed
    assert {engine.detokenize([int(token)]) for token in allowed} == {"a"}


def test_one_call_at_most_where_parallel_calls_are_off(model_path: Path) -> None:
    # In the generic format the model would make the same call twice.
    config = EngineConfig(n_ctx=2048, n_threads=1, warmup=False)
    chat = ChatOptions(tools=[WEATHER, TIME], tool_choice="required", parallel_tool_calls=False)
    with BatchEngine(model_path, config) as generic:
        for messages in ([user("Paris")], CALLS):
            result = generic.submit(messages, GREEDY, chat=chat).result(timeout=120)
            assert result.reply is not None
            assert len(result.reply.tool_calls) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_triggered_call_ends_the_answer_where_parallel_calls_are_off(
    engine: BatchEngine, seed: int
) -> None:
    chat = ChatOptions(tools=[WEATHER, TIME], parallel_tool_calls=False)
    params = SamplingParams(temperature=1, seed=seed, max_tokens=200)
    assert len(answer(engine, CALLS, chat, params).tool_calls) == 1
