"""Broken requests are refused one by one and never disturb the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamaherd import (
    LLM,
    BatchEngine,
    ChatOptions,
    ContextLengthError,
    EngineConfig,
    FinishReason,
    InvalidRequestError,
    RequestOutput,
    SamplingParams,
)

GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
GOOD_PROMPTS = ["The capital of France is", "Once upon a time"]
HELLO = [{"role": "user", "content": "hello"}]


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def message(**fields: Any) -> list[dict[str, Any]]:
    return [fields]


Submit = Callable[[BatchEngine], object]


def prompt(value: Any, **options: Any) -> Submit:
    return lambda engine: engine.submit(value, **options)


def tools(value: Any, given: list[Any]) -> Submit:
    return lambda engine: engine.submit(value, chat=ChatOptions(tools=given))


def kwargs(given: dict[str, Any]) -> Submit:
    return lambda engine: engine.submit(HELLO, chat=ChatOptions(template_kwargs=given))


def params(**options: Any) -> Submit:
    return lambda engine: engine.submit("The", SamplingParams(**options))


def tool(**function: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": function}]


BAD: dict[str, tuple[Submit, type[Exception], str]] = {
    "empty text": (prompt(""), InvalidRequestError, "at least 1 token; got 0"),
    "no ids": (prompt([]), InvalidRequestError, "at least 1 token; got 0"),
    "too long": (prompt([5] * 2048), ContextLengthError, "maximum context length is 2048"),
    "a megabyte": (prompt("a b " * 2**18), ContextLengthError, "maximum context length is 2048"),
    "id out of range": (prompt([5, 49152]), InvalidRequestError, "got 49152 at index 1"),
    "negative id": (prompt([-1]), InvalidRequestError, "got -1 at index 0"),
    "id of 33 bits": (prompt([2**32 + 5]), InvalidRequestError, "got 4294967301"),
    "negative id of 33 bits": (prompt([-(2**32)]), InvalidRequestError, "got -4294967296"),
    "id of 70 bits": (prompt([2**70]), InvalidRequestError, "got 1180591620717411303424"),
    "negative id of 70 bits": (prompt([-(2**70)]), InvalidRequestError, "got -118059162071741130"),
    "array of 64 bits": (prompt(np.array([2**40])), InvalidRequestError, "got 1099511627776"),
    "unsigned 64 bits": (
        prompt(np.array([2**64 - 1], np.uint64)),
        InvalidRequestError,
        "got 18446744073709551615",
    ),
    "float ids": (prompt([1.0]), TypeError, "float"),
    "bool ids": (prompt([True]), TypeError, "bool"),
    "float array": (prompt(np.array([1.0])), TypeError, "integers"),
    "bool array": (prompt(np.array([True])), TypeError, "integers"),
    "empty float array": (prompt(np.array([])), TypeError, "integers"),
    "matrix": (prompt(np.array([[1, 2]])), TypeError, "1-D"),
    "number": (prompt(5), TypeError, "sequence of int"),
    "None": (prompt(None), TypeError, "sequence of int"),
    "bytes": (prompt(b"hello"), TypeError, "sequence of int"),
    "list of texts": (prompt(["hello"]), TypeError, "str"),
    "mapping": (prompt(HELLO[0]), TypeError, "sequence of int"),
    "surrogate in text": (prompt("a\ud800b"), InvalidRequestError, "not valid Unicode"),
    "surrogate in stop": (params(stop="a\ud800"), InvalidRequestError, "not valid Unicode"),
    "surrogate in message": (
        prompt(message(role="user", content="\udfff")),
        InvalidRequestError,
        "not valid Unicode",
    ),
    "params of no class": (prompt("The", params={"max_tokens": 1}), TypeError, "SamplingParams"),
    "NaN temperature": (params(temperature=math.nan), InvalidRequestError, "got nan"),
    "unknown option": (params(max_token=1), TypeError, "max_token"),
    "max_tokens 0": (params(max_tokens=0), InvalidRequestError, ">= 1; got 0"),
    "max_tokens -2": (params(max_tokens=-2), InvalidRequestError, ">= 1; got -2"),
    "2000 stops": (params(stop=["a"] * 2000), InvalidRequestError, "got 2000"),
    "NaN bias": (params(logit_bias={1: math.nan}), InvalidRequestError, "got nan"),
    "bias out of range": (params(logit_bias={49152: 1.0}), InvalidRequestError, "got 49152"),
    "bias below range": (params(logit_bias={-1: 1.0}), InvalidRequestError, "got -1"),
    "stop id out of range": (params(stop_token_ids=[49152]), InvalidRequestError, "got 49152"),
    "role": (prompt(message(role="robot", content="x")), InvalidRequestError, "got 'robot'"),
    "no role": (prompt(message(content="x")), InvalidRequestError, "role"),
    "role of a number": (prompt(message(role=5, content="x")), InvalidRequestError, "string"),
    "no content": (prompt(message(role="user")), InvalidRequestError, "content"),
    "content of a number": (prompt(message(role="user", content=5)), InvalidRequestError, "5"),
    "content of bytes": (prompt(message(role="user", content=b"x")), InvalidRequestError, "JSON"),
    "content of NaN": (prompt(message(role="user", content=math.nan)), InvalidRequestError, "JSON"),
    "huge number": (prompt(message(role="user", content=10**5000)), InvalidRequestError, "JSON"),
    "deep content": (prompt(message(role="user", content=nested(900))), InvalidRequestError, ""),
    "too deep content": (
        prompt(message(role="user", content=nested(10**5))),
        InvalidRequestError,
        "JSON",
    ),
    "circular content": (
        prompt(message(role="user", content=circular())),
        InvalidRequestError,
        "JSON",
    ),
    "a message that is none": (prompt([*HELLO, 5]), InvalidRequestError, "got 5"),
    "tools without messages": (tools("The", tool(name="f")), InvalidRequestError, "messages"),
    "tool that is none": (tools(HELLO, [5]), InvalidRequestError, "tool"),
    "tool without function": (tools(HELLO, [{"type": "function"}]), InvalidRequestError, ""),
    "tool without name": (tools(HELLO, tool(description="d")), InvalidRequestError, "name"),
    "tool of a type": (tools(HELLO, [{"type": "robot"}]), InvalidRequestError, "robot"),
    "a template variable to count to": (
        kwargs({"n": [1e9]}),
        InvalidRequestError,
        "got 1000000000",
    ),
    "a template variable of NaN": (kwargs({"n": math.nan}), InvalidRequestError, "got nan"),
    "large template variables": (kwargs({"a": "b" * 65536}), InvalidRequestError, "got 65545"),
    "a choice that is none": (
        lambda llm: ChatOptions(tools=tool(name="f"), tool_choice="g"),
        InvalidRequestError,
        "got 'g'",
    ),
}


@pytest.fixture(scope="module")
def llm(model_path: Path) -> Iterator[LLM]:
    with LLM(
        model_path, EngineConfig(deterministic=True, n_ctx=2048, max_seqs=4, n_threads=1)
    ) as llm:
        yield llm


@pytest.fixture(scope="module")
def expected(llm: LLM) -> list[list[int]]:
    """The good prompts' outputs while nothing else runs."""
    return [llm.generate([prompt], GREEDY)[0].token_ids for prompt in GOOD_PROMPTS]


@pytest.mark.parametrize("name", list(BAD))
def test_bad_request_is_refused_while_good_ones_run_unchanged(
    llm: LLM, expected: list[list[int]], name: str
) -> None:
    submit, error, rule = BAD[name]
    good = [llm.engine.submit(prompt, GREEDY) for prompt in GOOD_PROMPTS]
    with pytest.raises(error) as caught:
        submit(llm.engine)
    assert type(caught.value) is error
    assert rule in str(caught.value)
    assert [stream.result().token_ids for stream in good] == expected


def test_many_bad_requests_among_running_good_ones_change_nothing(
    llm: LLM, expected: list[list[int]]
) -> None:
    good = [llm.engine.submit(prompt, GREEDY) for prompt in GOOD_PROMPTS * 8]
    n_before = llm.engine.metrics().n_submitted
    for submit, error, _ in BAD.values():
        with pytest.raises(error):
            submit(llm.engine)
    assert [stream.result().token_ids for stream in good] == expected * 8
    assert llm.engine.metrics().n_submitted <= n_before + len(good)
    assert llm.engine.metrics().n_finished_error == 0


def test_a_prompt_may_leave_room_for_a_single_token(model_path: Path) -> None:
    config = EngineConfig(n_ctx=256, max_len=64, max_seqs=1, n_threads=1, warmup=False)
    with BatchEngine(model_path, config) as engine:
        result = engine.submit([5] * 63, SamplingParams(ignore_eos=True)).result()
        assert (result.finish_reason, result.usage.completion_tokens) == (FinishReason.LENGTH, 1)
        with pytest.raises(InvalidRequestError, match="maximum context length is 64"):
            engine.submit([5] * 64)


def test_empty_conversation_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="at least 1 message"):
        llm.chat([])
    with pytest.raises(InvalidRequestError):
        llm.engine.apply_chat_template([])
    with pytest.raises(InvalidRequestError):
        llm.engine.submit([])


def test_bad_prompt_among_good_ones_gives_an_error_result_for_it_only(
    llm: LLM, expected: list[list[int]]
) -> None:
    bad: list[Any] = ["", [49152], [5] * 5000, [{"role": "robot", "content": "x"}]]
    results = llm.generate([GOOD_PROMPTS[0], *bad, GOOD_PROMPTS[1]], GREEDY)
    assert [results[0].token_ids, results[-1].token_ids] == expected
    for result in results[1:-1]:
        assert result.finish_reason is FinishReason.ERROR
        assert (result.text, result.token_ids, result.usage.completion_tokens) == ("", [], 0)
    rules = ["got 0", "got 49152", "has 5000", "got 'robot'"]
    assert all(rule in r.error for rule, r in zip(rules, results[1:-1], strict=True))
    assert results[0].error == ""


def test_numbers_of_prompts_and_params_must_match(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="2 prompts but 1 params"):
        llm.generate(GOOD_PROMPTS, [GREEDY])


def assert_answers_or_refuses(llm: LLM, prompt: Any) -> None:
    try:
        result = llm.engine.submit(prompt, SamplingParams(max_tokens=1)).result()
    except (InvalidRequestError, TypeError):
        return
    assert isinstance(result, RequestOutput)
    assert result.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    result.text.encode()


short = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
texts = st.text(st.one_of(st.characters(), st.sampled_from("\ud800\udfff\x00\ufeff")), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
roles = st.sampled_from(["system", "developer", "user", "assistant", "tool", "robot"])
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": roles | json_values,
        "content": texts | json_values,
        "name": json_values,
        "tool_calls": json_values,
        "tool_call_id": json_values,
        "reasoning_content": json_values,
    },
)


@short
@given(text=texts)
def test_any_text_is_answered_or_refused(llm: LLM, text: str) -> None:
    assert_answers_or_refuses(llm, text)


@short
@given(conversation=st.lists(messages | json_values, max_size=3))
def test_any_conversation_is_answered_or_refused(llm: LLM, conversation: list[Any]) -> None:
    assert_answers_or_refuses(llm, conversation)


@short
@given(tools=st.lists(st.dictionaries(texts, json_values, max_size=2) | json_values, max_size=2))
def test_any_tools_are_taken_or_refused(llm: LLM, tools: list[Any]) -> None:
    try:
        chat = llm.engine.apply_chat_template(HELLO, ChatOptions(tools=tools))
    except InvalidRequestError:
        return
    assert "hello" in chat.text
    assert isinstance(chat.stop, list)
