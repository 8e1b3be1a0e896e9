"""Answers taken apart as they come: the deltas add up to what a parse of the whole text gives, for
work in proportion to the text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chat_templates import FORMATS, TOOLS_AND_THOUGHTS, FamilyEngines
from fuzzing import corpus, fuzz, mutated
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import (
    AssistantMessage,
    ChatOptions,
    FinishReason,
    LlamaHerdError,
    MessageReader,
)
from llamaherd._core import ChatFormat

pytestmark = pytest.mark.slow

# Calls that are a JSON object and nothing else, as Llama 3's.
_BARE_JSON = TOOLS_AND_THOUGHTS
for _before, _after in (
    ('<tool_call>\n{"name"', '{"name"'),
    ("}\n</tool_call>", "}"),
    ('"arguments"', '"parameters"'),
):
    assert _before in _BARE_JSON
    _BARE_JSON = _BARE_JSON.replace(_before, _after)
_TEMPLATES = FORMATS | {"llama3": _BARE_JSON}
_TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {
                    "x": {},
                    "s": {"type": "string"},
                    "n": {"type": "array"},
                },
                "required": ["x"],
            },
        },
    }
    for name in ("f", "find")
]
_MARKS = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<function=f>", "<parameter=s>"),
    *("</parameter>", "</function>", "<|channel|>final<|message|>", "<|end|>", "[TOOL_CALLS]f"),
    *('{"name": "f", "arguments": {"x": ', '{"s": "', "}}", "<tool", "</", "\\u00e9", "\\"),
    *("True", "Truest", "['it\\'s', \"a\", None, 'F\"']", "<parameter=n>\n"),
]
_ANSWERS = [
    *corpus("answers"),
    '{"name": "find", "parameters": {"x": [1, {"a": null}], "s": "b"}}',
    "<|tool_call_start|>[f(x=['it\\'s', {'a': True}, None, 'F\"'], n=[1, \"N\"])]<|tool_call_end|>",
    "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=s>\na\n\n<b>é\n"
    '</parameter>\n<parameter=n>\n[1, {"a": "True"}, true, "\\""]\n</parameter>\n</function>\n'
    "</tool_call>",
]


FormatOf = Callable[[str], ChatFormat]


@pytest.fixture(scope="module")
def format_of(model_path: Path) -> Iterator[FormatOf]:
    engines = FamilyEngines(model_path, _TEMPLATES)
    hello = [{"role": "user", "content": "Hello"}]

    @functools.cache
    def of(family: str) -> ChatFormat:
        found = engines.get(family).apply_chat_template(hello, ChatOptions(tools=_TOOLS)).format
        assert found is not None
        return found

    yield of
    engines.close()


def delta(text: str, reason: FinishReason | None = None) -> Any:
    return SimpleNamespace(text=text, finish_reason=reason)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


def joined(added: list[AssistantMessage]) -> AssistantMessage:
    """The sum of deltas, each call's id and name in its first."""
    calls: list[Any] = []
    for call in (call for piece in added for call in piece.tool_calls):
        if call.index == len(calls):
            assert call.id
            assert call.name
            calls.append(call)
        else:
            assert (call.id, call.name) == ("", "")
            before = calls[call.index]
            calls[call.index] = type(call)(
                before.index, before.id, before.name, before.arguments + call.arguments
            )
    content = "".join(piece.content for piece in added)
    return AssistantMessage(content, "".join(piece.reasoning for piece in added), tuple(calls))


def without_ids(reply: AssistantMessage) -> Any:
    calls = [(call.index, call.name, call.arguments) for call in reply.tool_calls]
    return reply.content, reply.reasoning, calls


def begins(before: AssistantMessage, after: AssistantMessage) -> bool:
    return (
        after.content.startswith(before.content)
        and after.reasoning.startswith(before.reasoning)
        and len(before.tool_calls) <= len(after.tool_calls)
        and all(
            (a.name, b.arguments[: len(a.arguments)]) == (b.name, a.arguments)
            for a, b in zip(before.tool_calls, after.tool_calls, strict=False)
        )
    )


def check(format_: ChatFormat, pieces: list[str], reason: FinishReason) -> None:
    """Deltas add up to a parse of the whole text, unless the grammar takes back what it has found
    in the text's beginning; or where there is none, lose no text that was not told apart before."""
    reader = MessageReader(format_)
    added = [reader.read(delta(piece)) for piece in pieces]
    read = reader.reply
    added.append(reader.read(delta("", reason)))
    assert joined(added) == reader.reply
    text = "".join(pieces)
    try:
        format_.parse(text)
    except LlamaHerdError:
        assert reader.reply.tool_calls == read.tool_calls
        assert reader.reply.reasoning == read.reasoning
        assert text.endswith(reader.reply.content.removeprefix(read.content))
        if not read.reasoning and not read.tool_calls:
            assert text.endswith(reader.reply.content)
        if not read:
            assert reader.reply.content == text
    else:
        whole = MessageReader(format_).read_all(text)
        if without_ids(reader.reply) != without_ids(whole):
            assert not begins(read, whole)
            assert any(
                not begins(reader.read_all("".join(pieces[:n])), whole) for n in range(len(pieces))
            )


families = st.sampled_from(sorted(_TEMPLATES))
texts = mutated(_ANSWERS, _MARKS) | st.text(max_size=40)
reasons = st.sampled_from([FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED])


@fuzz
@given(family=families, text=texts, cuts=st.lists(st.integers(0, 300), max_size=12), reason=reasons)
def test_deltas_add_up_to_a_parse_of_the_whole(
    format_of: FormatOf, family: str, text: str, cuts: list[int], reason: FinishReason
) -> None:
    check(format_of(family), pieces_of(text, cuts), reason)


@pytest.mark.parametrize("family", sorted(_TEMPLATES))
def test_answers_of_each_format_at_each_cut(format_of: FormatOf, family: str) -> None:
    format_ = format_of(family)
    for text in _ANSWERS:
        check(format_, list(text), FinishReason.STOP)
        for cut in range(len(text)):
            check(format_, [text[:cut], text[cut:]], FinishReason.STOP)
            check(format_, list(text[:cut]), FinishReason.LENGTH)


@pytest.mark.parametrize("closes", [True, False])
def test_nested_brackets(format_of: FormatOf, closes: bool) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"x": ' + "[" * 4500
    if closes:
        call += "]" * 4500 + "}}\n</tool_call>"
    check(format_of("hermes"), list(call), FinishReason.STOP)
    check(format_of("gemma4"), ["<|tool_call>call:f{x:", *"[" * 4500], FinishReason.LENGTH)


# Where an answer of a family is long: what comes before, and a piece that is repeated.
_WORDS = "words of an answer,\n a < b > c [d] {e} "
_VALUES = '{"a": [1, -2.5e3, null], "b": "c\\n"}, '
_LONG = {
    "content": ("hermes", "", _WORDS),
    "thought": ("hermes", "<think>\n", _WORDS),
    "string": ("hermes", '<tool_call>\n{"name": "f", "arguments": {"x": "', "words \\n a < b > c "),
    "values": ("hermes", '<tool_call>\n{"name": "f", "arguments": {"x": [', _VALUES),
    "brackets": ("hermes", '<tool_call>\n{"name": "f", "arguments": {"x": ', "["),
    "calls": ("hermes", "", '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n'),
    "bare JSON": ("llama3", '{"name": "f", "parameters": {"x": [', _VALUES),
    "XML string": (
        "qwen3_coder",
        "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=s>\n",
        _WORDS,
    ),
    "XML value": (
        "qwen3_coder",
        "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=n>\n[",
        _VALUES,
    ),
    "GPT-OSS": (
        "gpt_oss",
        '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": [',
        _VALUES,
    ),
    "DeepSeek": ("deepseek", "It asks for x.</think>", _WORDS),
    "Gemma": ("gemma4", "<|tool_call>call:f{x:[", '<|"|>words<|"|>,{b:1.5,c:null},'),
}


def long_answer(begin: str, piece: str) -> list[str]:
    """Deltas of four bytes."""
    text = piece * (32_000 // len(piece) + 1)
    return [begin, *(text[i : i + 4] for i in range(0, 32_000, 4))]


@pytest.mark.parametrize("place", sorted(_LONG))
def test_work_is_in_proportion_to_the_text(format_of: FormatOf, place: str) -> None:
    family, begin, piece = _LONG[place]
    reader = MessageReader(format_of(family))
    parser: Any = reader._parser
    steps, added = [], []
    for text in long_answer(begin, piece):
        before = parser.n_steps
        added.append(reader.read(delta(text)))
        steps.append(parser.n_steps - before)
    assert sum(steps) <= 25 * 32_000
    assert any(added[-1500:])
    if family != "gemma4":  # its calls are mapped again when they have grown by an eighth
        assert any(added[-100:])
        assert sum(steps[-1000:]) <= 1.1 * sum(steps[1:1001])
        assert max(steps[-1000:]) <= 1.1 * max(steps[1:1001])


def test_text_comes_with_its_delta(format_of: FormatOf) -> None:
    reader = MessageReader(format_of("hermes"))
    for text in ("One", " <b", "> mom", "ent. é", " \n"):
        assert reader.read(delta(text)) == AssistantMessage(text)
    assert not reader.read(delta("<tool_"))  # may begin a call
    assert reader.read(delta("box>")) == AssistantMessage("<tool_box>")
    assert reader.read(delta("", FinishReason.STOP)) == AssistantMessage()


def test_arguments_come_with_their_delta(format_of: FormatOf) -> None:
    reader = MessageReader(format_of("hermes"))
    reader.read(delta('<tool_call>\n{"name": "f", "arguments": {"x": '))
    for text in ('"a', "b", '\\n"', ", ", '"s": [', '"c"'):
        (call,) = reader.read(delta(text)).tool_calls
        assert call.arguments.strip() == text.strip() or text == ", "
    assert reader.reply.tool_calls[0].arguments == '{"x": "ab\\n", "s": ["c"'


def test_the_whole_is_parsed_once(format_of: FormatOf) -> None:
    real = format_of("hermes")
    reader = MessageReader(real)
    parsed: list[str] = []

    def parse(text: str) -> Any:
        parsed.append(text)
        return real.parse(text)

    reader._format = SimpleNamespace(parse=parse)  # type: ignore[assignment]
    pieces = long_answer("", _WORDS)
    for text in pieces:
        reader.read(delta(text))
    assert not parsed
    reader.read(delta("", FinishReason.STOP))
    assert parsed == ["".join(pieces)]


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ('<tool_call>\n{"name": 5}', "", '<tool_call>\n{"name": 5}'),
        ("Hm. <tool_call>\n[", "", "Hm. <tool_call>\n["),
        ("<think>\nHm.\n</think>\n\nOh. <tool_call>\n[", "Hm.\n", "Oh. <tool_call>\n["),
    ],
)
def test_what_cannot_be_read_is_content(
    format_of: FormatOf, text: str, reasoning: str, content: str
) -> None:
    def read(pieces: list[str]) -> AssistantMessage:
        reader = MessageReader(format_of("hermes"))
        for piece in pieces:
            reader.read(delta(piece))
        reader.read(delta("", FinishReason.STOP))
        return reader.reply

    assert read([text]) == AssistantMessage(text)
    assert read(list(text)) == AssistantMessage(content, reasoning)


def test_without_a_format_all_is_content() -> None:
    reader = MessageReader(None)
    assert reader.read(delta("<think>")) == AssistantMessage("<think>")
    assert reader.read(delta("", FinishReason.STOP)) == AssistantMessage()
    assert reader.reply == reader.read_all("<think>") == AssistantMessage("<think>")
