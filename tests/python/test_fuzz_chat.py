"""Fuzz: answers taken apart, in the formats of several model families."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FORMATS
from fuzzing import corpus, fuzz, mutated
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import (
    BatchEngine,
    ChatOptions,
    EngineConfig,
    FinishReason,
    ReplyReader,
)

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


class Engines:
    """One for each family's format, made when it is first asked for."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._made: dict[str, BatchEngine] = {}

    def get(self, family: str) -> BatchEngine:
        if family not in self._made:
            config = EngineConfig(
                n_ctx=256, max_seqs=1, n_threads=1, warmup=False, chat_template=FORMATS[family]
            )
            self._made[family] = BatchEngine(self._model, config)
        return self._made[family]

    def close(self) -> None:
        for engine in self._made.values():
            engine.close()


@pytest.fixture(scope="module")
def engines(model_path: Path) -> Iterator[Engines]:
    engines = Engines(model_path)
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
texts = mutated(corpus("answers"), MARKS) | st.text(max_size=40) | deep


@fuzz
@given(family=families, text=texts, cuts=st.lists(st.integers(0, 20_000), max_size=4))
def test_any_answer_is_taken_apart(
    engines: Engines, family: str, text: str, cuts: list[int]
) -> None:
    format_ = engines.get(family).apply_chat_template(HELLO, ChatOptions(tools=[TOOL])).format
    reader = ReplyReader(format_)
    for cut in sorted(cuts):
        reader.read_all(text[:cut], None)
    reply = reader.read_all(text, FinishReason.STOP)
    for call in reply.tool_calls:
        assert call.id
        assert call.name
