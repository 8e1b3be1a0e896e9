"""Conversations that end with an assistant message, and text parts and system messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FORMATS, TOOLS_AND_THOUGHTS, FamilyEngines
from llamaherd import (
    AssistantMessage,
    BatchEngine,
    ChatOptions,
    ContextLengthError,
    EngineConfig,
    InvalidRequestError,
    MessageReader,
    SamplingParams,
)
from test_chat import CALL, CALL_END, CALLS, THOUGHTS, TOOLS, WEATHER, answer

GREEDY = SamplingParams(temperature=0, max_tokens=24)
ASK: dict[str, Any] = {"role": "user", "content": "Name a river."}


@pytest.fixture(scope="module")
def chat(model_path: Path) -> Iterator[BatchEngine]:
    config = EngineConfig(n_ctx=4096, n_threads=1, chat_template=TOOLS_AND_THOUGHTS, warmup=False)
    with BatchEngine(model_path, config) as engine:
        yield engine


@pytest.fixture(scope="module")
def families(model_path: Path) -> Iterator[FamilyEngines]:
    engines = FamilyEngines(model_path, FORMATS)
    yield engines
    engines.close()


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def rendered(engine: BatchEngine, messages: list[Any], **options: Any) -> str:
    return engine.apply_chat_template(messages, ChatOptions(**options)).text


def read(reader: MessageReader, pieces: list[str]) -> AssistantMessage:
    """The message of an output, in pieces and whole, which must be equal."""

    class Piece:
        finish_reason: Any = None

        def __init__(self, text: str) -> None:
            self.text = text

    last = Piece("")
    last.finish_reason = 1
    for piece in [*map(Piece, pieces), last]:
        reader.read(piece)  # type: ignore[arg-type]
    whole = reader.read_all("".join(pieces))
    assert (reader.reply.content, reader.reply.reasoning) == (whole.content, whole.reasoning)
    assert [(c.name, c.arguments) for c in reader.reply.tool_calls] == [
        (c.name, c.arguments) for c in whole.tool_calls
    ]
    return whole


def test_the_last_assistant_message_is_continued(engine: BatchEngine) -> None:
    prompt = rendered(engine, [ASK])
    assert rendered(engine, [ASK, assistant("The Nile")]) == prompt + "The Nile"
    closed = rendered(engine, [ASK, assistant("The Nile")], continue_final_message=False)
    assert closed.startswith(prompt + "The Nile<|im_end|>")
    assert closed.endswith("<|im_start|>assistant\n")
    # An empty message is begun.
    assert rendered(engine, [ASK, assistant("")]) == prompt
    assert rendered(engine, [ASK, assistant("")], continue_final_message=True) == prompt


def test_the_answer_is_the_new_text_only(engine: BatchEngine) -> None:
    whole = engine.submit([ASK], GREEDY).result().text
    cut = whole.index(" ", 4)
    messages = [ASK, assistant(whole[:cut])]
    result = engine.submit(messages, GREEDY).result()
    assert (whole[:cut] + result.text).startswith(whole)
    assert result.reply is not None
    assert result.reply.content == result.text


def test_a_continued_answer_obeys_its_rule_from_the_new_text_on(engine: BatchEngine) -> None:
    params = SamplingParams(regex="[0-9]{2}", temperature=0, max_tokens=8)
    result = engine.submit([ASK, assistant("There are ")], params).result()
    assert result.text.isdigit()
    assert len(result.text) == 2


def test_content_after_reasoning_is_continued(chat: BatchEngine) -> None:
    messages = [*THOUGHTS, assistant("The sum is", reasoning_content="It is 6.")]
    prompt = chat.apply_chat_template(messages)
    assert prompt.text.endswith("<think>\nIt is 6.\n</think>\n\nThe sum is")
    reply = answer(chat, messages, ChatOptions())
    assert not reply.reasoning
    assert reply.content
    assert "The sum is" not in reply.content


def test_reasoning_is_continued(chat: BatchEngine) -> None:
    messages = [*THOUGHTS, {"role": "assistant", "reasoning_content": "It is", "content": ""}]
    assert chat.apply_chat_template(messages).text.endswith("It is")
    reply = answer(chat, messages, ChatOptions())
    assert reply.reasoning.startswith(" 6")
    assert reply.content
    # Without thinking the reasoning is closed.
    assert rendered(chat, messages, thinking=False).endswith("It is\n</think>\n\n")


def test_a_call_may_follow_continued_content(chat: BatchEngine) -> None:
    prompt = chat.apply_chat_template([*CALLS, assistant("One mo")], TOOLS)
    reply = read(MessageReader(prompt.format), ["ment. ", CALL[:30], CALL[30:], CALL_END])
    assert reply.content.strip() == "ment."
    assert [made.name for made in reply.tool_calls] == ["get_weather"]
    assert not reply.reasoning


def test_what_looks_like_the_beginning_of_a_marker_is_kept(chat: BatchEngine) -> None:
    for end in ("<", "<tool", "<tool_call", " ", "\n\n"):
        prompt = chat.apply_chat_template([*CALLS, assistant(f"Is 1{end}")], TOOLS)
        assert read(MessageReader(prompt.format), ["= 2", "?"]).content == "= 2?"


def test_every_family_separates_the_new_text(families: FamilyEngines) -> None:
    for family in FORMATS:
        engine = families.get(family)
        for options in (ChatOptions(), ChatOptions(tools=[WEATHER])):
            begun = assistant("One two", reasoning_content="So far.")
            prompt = engine.apply_chat_template([ASK, begun], options)
            assert prompt.text.endswith("One two"), family
            reply = read(MessageReader(prompt.format), [" three", " four."])
            assert (reply.content, reply.reasoning) == (" three four.", ""), family


def test_a_call_in_the_generic_format_may_follow_continued_content(engine: BatchEngine) -> None:
    prompt = engine.apply_chat_template([ASK, assistant("One mo")], TOOLS)
    assert prompt.text.endswith("<|im_start|>assistant\nOne mo")
    reply = read(MessageReader(prompt.format), ["ment. ", "Bye."])
    assert (reply.content, reply.tool_calls) == ("ment. Bye.", ())
    reply = read(MessageReader(prompt.format), ["ment. ", CALL[:30], CALL[30:], CALL_END])
    assert reply.content.strip() == "ment."
    assert [made.name for made in reply.tool_calls] == ["get_weather"]


def test_what_cannot_be_continued_is_refused(chat: BatchEngine) -> None:
    called = CALLS[:2]
    with pytest.raises(InvalidRequestError, match="tool calls cannot be continued"):
        chat.apply_chat_template(called)
    assert rendered(chat, called, continue_final_message=False).endswith("assistant\n")
    with pytest.raises(InvalidRequestError, match=r"ends with an assistant message.*role 'user'"):
        chat.submit([ASK], GREEDY, chat=ChatOptions(continue_final_message=True))
    for choice in ("required", "get_time"):
        must_call = ChatOptions(tools=TOOLS.tools, tool_choice=choice)
        with pytest.raises(
            InvalidRequestError, match="cannot continue content: set continue_final_message"
        ):
            chat.submit([*CALLS, assistant("One mo")], GREEDY, chat=must_call)
        # Reasoning may be continued: the call follows it.
        thinking = {"role": "assistant", "content": "", "reasoning_content": "I call the"}
        result = chat.submit([*CALLS, thinking], GREEDY, chat=must_call).result()
        assert not result.error
        assert result.reply is not None
        assert result.reply.reasoning or result.reply.tool_calls
        huge = {**thinking, "reasoning_content": "x" * 3_000_000}
        with pytest.raises(ContextLengthError):
            chat.submit([*CALLS, huge], GREEDY, chat=must_call)
    rule = SamplingParams(json_schema={"type": "object"})
    with pytest.raises(InvalidRequestError, match="JSON beside tools, cannot continue"):
        chat.submit([*CALLS, assistant("One mo")], rule, chat=TOOLS)
    deep = [ASK, assistant("<tool_call>" + "[" * 200_000)]
    prompt = chat.apply_chat_template(deep, TOOLS)
    assert MessageReader(prompt.format).read_all("x").content == "x"


def test_text_parts_are_joined_as_by_llama_cpp(engine: BatchEngine) -> None:
    parts = [{"type": "text", "text": text} for text in ("One", "two", "")]
    joined = "One\ntwo\n"
    for role in ("system", "user"):
        message = {"role": role, "content": parts}
        assert rendered(engine, [message, ASK]) == rendered(
            engine, [{**message, "content": joined}, ASK]
        )
    begun = [ASK, {"role": "assistant", "content": parts}]
    assert rendered(engine, begun) == rendered(engine, [ASK, assistant(joined)])


def test_leading_system_messages_are_merged(chat: BatchEngine) -> None:
    leading = [
        {"role": "system", "content": "One."},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
        {"role": "system", "content": "Three."},
    ]
    later = {"role": "system", "content": "Four."}
    merged = {"role": "system", "content": "One.\n\nTwo.\n\nThree."}
    assert rendered(chat, [*leading, ASK, later, ASK]) == rendered(chat, [merged, ASK, later, ASK])
    assert rendered(chat, leading) == rendered(chat, [merged])
