"""Fuzz: conversations rendered and tokenised, and answers taken apart, in the formats of several
model families. Whatever comes is answered or refused with an error of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chat_templates import FORMATS, FamilyEngines
from fuzzing import corpus, fuzz, mutated
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import (
    ChatOptions,
    FinishReason,
    InvalidRequestError,
    MessageReader,
)

pytestmark = pytest.mark.slow

MARKS = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_start|>", "<|im_end|>"),
    *("[TOOL_CALLS]", "<function=f>", "<parameter=x>", "</parameter>", "</function>"),
    *("<|channel|>analysis<|message|>", "<|channel|>commentary to=functions.f", "<|call|>"),
    *('{"name": "f", "arguments": {"x": ', '"arguments": ', "}}", "null", "1e999", "\\ud800"),
]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "Anything.",
        "parameters": {"type": "object", "properties": {"x": {}}, "required": ["x"]},
    },
}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def engines(model_path: Path) -> Iterator[FamilyEngines]:
    engines = FamilyEngines(model_path, FORMATS)
    yield engines
    engines.close()


def nested(depth: int, opening: str, middle: str, closing: str) -> str:
    return opening * depth + middle + closing * depth


families = st.sampled_from(sorted(FORMATS))
deep = st.builds(
    nested,
    st.sampled_from([1, 10, 100, 1000, 10_000, 60_000]),
    st.sampled_from(["[", '{"a":', '[{"a":', "[[]", "(", " "]),
    st.sampled_from(["", "1", "[]", '"']),
    st.sampled_from(["", "]", "}", "}]"]),
)
# Where a format holds JSON.
inside = st.builds(
    lambda answer, value: answer.replace("[1]", value).replace('{"x": ', '{"x": ' + value),
    st.sampled_from(corpus("answers")),
    deep,
)
texts = mutated(corpus("answers"), MARKS) | st.text(max_size=40) | deep | inside
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
calls = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.just("f") | texts, "arguments": texts | json_values.map(json.dumps)}
        ),
    },
    optional={"id": st.text(max_size=9)},
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={
        "content": texts | st.none() | st.lists(st.builds(dict, type=st.just("text"), text=texts)),
        "name": texts,
        "tool_calls": st.lists(calls, max_size=4) | json_values,
        "tool_call_id": texts,
        "reasoning_content": texts,
    },
)
tools = st.just([]) | st.just([TOOL]) | st.lists(json_values, max_size=2)
options = st.fixed_dictionaries(
    {"tools": tools},
    optional={
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "parallel_tool_calls": st.booleans(),
        "thinking": st.booleans(),
        "template_kwargs": st.dictionaries(
            st.text(max_size=9) | st.sampled_from(["messages", "tools", "bos_token", "add_bos"]),
            json_values,
            max_size=3,
        ),
    },
)


@fuzz
@given(family=families, history=st.lists(messages, min_size=1, max_size=5), given_options=options)
def test_any_history_is_rendered_or_refused(
    engines: FamilyEngines, family: str, history: list[Any], given_options: dict[str, Any]
) -> None:
    engine = engines.get(family)
    try:
        prompt = engine.apply_chat_template(history, ChatOptions(**given_options))
        tokens = engine.tokenize(prompt.text)
    except InvalidRequestError:
        return
    assert prompt.text or not tokens


@fuzz
@given(family=families, text=texts, cuts=st.lists(st.integers(0, 20_000), max_size=4))
def test_any_answer_is_taken_apart(
    engines: FamilyEngines, family: str, text: str, cuts: list[int]
) -> None:
    format_ = engines.get(family).apply_chat_template(HELLO, ChatOptions(tools=[TOOL])).format
    reader = MessageReader(format_)
    bounds = [0, *sorted(cuts), len(text)]
    for begin, end in pairwise(bounds):
        delta: Any = SimpleNamespace(text=text[begin:end], finish_reason=None)
        reader.read(delta)
    ending: Any = SimpleNamespace(text="", finish_reason=FinishReason.STOP)
    reader.read(ending)
    for reply in (reader.reply, reader.read_all(text)):
        for call in reply.tool_calls:
            assert call.id
            assert call.name
