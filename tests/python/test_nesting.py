"""Values nested as deep as a client or a model likes, in histories and in answers."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FORMATS, TOOLS_AND_THOUGHTS
from llamaherd import BatchEngine, ChatOptions, EngineConfig, InvalidRequestError

pytestmark = pytest.mark.slow

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CONFIG = EngineConfig(n_ctx=512, n_threads=1, chat_template=TOOLS_AND_THOUGHTS, warmup=False)


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[BatchEngine]:
    with BatchEngine(model_path, CONFIG) as engine:
        yield engine


def nested(n: int, opening: str = "[", closing: str = "]") -> str:
    return '{"x": ' + opening * (n - 1) + "1" + closing * (n - 1) + "}"


def called_with(arguments: str) -> list[dict[str, Any]]:
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": "Call it."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]


def test_arguments_of_a_history_may_be_nested_256_levels_deep(engine: BatchEngine) -> None:
    assert nested(256) in engine.apply_chat_template(called_with(nested(256))).text
    for n in (257, 60_000):
        with pytest.raises(InvalidRequestError, match=f"at most 256 levels deep; got {n}"):
            engine.apply_chat_template(called_with(nested(n)))


@pytest.mark.parametrize(
    "arguments", ['{"x": "' + "[{" * 1000 + '"}', '{"x": "\\"' + "[" * 999 + '"}']
)
def test_brackets_within_strings_are_no_nesting(engine: BatchEngine, arguments: str) -> None:
    json.loads(arguments)
    assert engine.apply_chat_template(called_with(arguments)).text


def test_what_else_llama_cpp_parses_is_bounded(engine: BatchEngine) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = {"x": deep}
    messages = called_with("{}")
    with pytest.raises(InvalidRequestError, match="template_kwargs may be nested"):
        engine.apply_chat_template(messages, ChatOptions(template_kwargs=deep))
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    with pytest.raises(InvalidRequestError, match="tools may be nested at most 256 levels deep"):
        engine.apply_chat_template(messages, ChatOptions(tools=[tool]))
    with pytest.raises(InvalidRequestError, match="messages may be nested"):
        engine.apply_chat_template([{"role": "user", "content": deep}])
    result = {"role": "tool", "tool_call_id": "1", "content": "[" * 60_000}
    with pytest.raises(InvalidRequestError, match="content of a tool message may be nested"):
        engine.apply_chat_template([*messages[:-1], result])
    prose = {"role": "user", "content": "[" * 60_000}
    assert prose["content"] in engine.apply_chat_template([prose]).text


ANSWERS = textwrap.dedent("""
    import sys
    from llamaherd import _core, BatchEngine, ChatOptions, EngineConfig, LlamaHerdError

    path, template, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    config = EngineConfig(n_ctx=512, n_threads=1, chat_template=template, warmup=False)
    calls = [
        '<tool_call>\\n{"name": "f", "arguments": {"x": %s}}\\n</tool_call>',
        '<tool_call>{"name": "f", "arguments": %s', "[TOOL_CALLS]f[ARGS]%s",
        '[TOOL_CALLS][{"name": "f", "arguments": %s}]', "[f(x=%s)]", "<function=f>%s</function>",
        "<|tool_call>call:f%s<tool_call|>", "f\\n%s", '{"name": "f", "parameters": %s}',
        "<function=f>\\n<parameter=x>\\n%s", "%s",
    ]
    with BatchEngine(path, config) as engine:
        prompt = engine.apply_chat_template(
            [{"role": "user", "content": "Call it."}], ChatOptions(tools=[tool])
        )
        for call in calls:
            for opening, closing in ("[", "]"), ('{"x": ', "}"), ("<x>", "</x>"), ("(", ")"):
                for value in opening * n + "1" + closing * n, opening * n:
                    text = call.replace("%s", value)
                    parser = _core.MessageParser(prompt.format)
                    for begin in range(0, len(text), 5_000):
                        parser.read(text[begin : begin + 5_000])
                    try:
                        prompt.format.parse(text)
                    except LlamaHerdError:
                        pass
    print("alive")
""")


@pytest.mark.parametrize(("name", "n"), [*((name, 4_500) for name in FORMATS), ("hermes", 60_000)])
def test_an_answer_of_any_depth_is_read(model_path: Path, name: str, n: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(model_path), FORMATS[name], str(n)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "alive\n", done.stderr[-2000:]


def test_a_deep_answer_keeps_its_arguments(engine: BatchEngine) -> None:
    chat = ChatOptions(tools=[TOOL])
    prompt = engine.apply_chat_template([{"role": "user", "content": "Call it."}], chat)
    assert prompt.format is not None
    arguments = nested(5_000)
    text = '<tool_call>\n{"name": "f", "arguments": ' + arguments + "}\n</tool_call>"
    parsed = prompt.format.parse(text)
    assert [(call.name, json_text(call.arguments)) for call in parsed.tool_calls] == [
        ("f", json_text(arguments))
    ]


def json_text(text: str) -> str:
    return "".join(text.split())
