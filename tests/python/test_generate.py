"""LLM: prompts of every kind, every sampling option, results in order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llamaherd import LLM, ChatOptions, EngineConfig, FinishReason, SamplingParams

PARIS = "The capital of France is"
GREEDY = SamplingParams(max_tokens=8, temperature=0)
HELLO = [{"role": "user", "content": "Hi!"}]
TEMPLATE = (
    "{% for t in tools %}TOOL {{ t.function.name }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def llm(model_path: Path) -> Iterator[LLM]:
    with LLM(
        model_path, EngineConfig(deterministic=True, n_ctx=2048, max_seqs=4, n_threads=1)
    ) as llm:
        yield llm


@pytest.fixture(scope="module")
def templated(model_path: Path) -> Iterator[LLM]:
    config = EngineConfig(
        n_ctx=512, max_seqs=2, max_len=80, n_threads=1, chat_template=TEMPLATE, warmup=False
    )
    with LLM(model_path, config) as llm:
        yield llm


@pytest.fixture(scope="module")
def paris(llm: LLM) -> list[int]:
    """The greedy answer to PARIS."""
    return llm.generate(PARIS, GREEDY)[0].token_ids


def wait_until_idle(llm: LLM) -> None:
    deadline = time.monotonic() + 60
    while llm.engine.metrics().n_running + llm.engine.metrics().n_waiting > 0:
        assert time.monotonic() < deadline, "requests still run"
        time.sleep(0.01)


def test_prompts_of_every_kind_in_one_call_come_back_in_order(llm: LLM) -> None:
    ids = llm.engine.tokenize(PARIS)
    prompts: list[Any] = [HELLO, PARIS, ids, tuple(ids), np.array(ids), "Once upon a time"]
    lengths = [5, 1, 2, 3, 4, 6]
    params = [replace(GREEDY, max_tokens=n, ignore_eos=True) for n in lengths]
    results = llm.generate(prompts, params)
    assert [r.usage.completion_tokens for r in results] == lengths
    assert [r.finish_reason for r in results] == [FinishReason.LENGTH] * len(prompts)
    longest = results[4].token_ids
    assert [r.token_ids for r in results[1:5]] == [longest[:n] for n in lengths[1:5]]
    chat_text = llm.engine.apply_chat_template(HELLO).text
    n_prompt = [len(llm.engine.tokenize(text)) for text in (chat_text, PARIS, prompts[-1])]
    n_prompt[1:2] = [n_prompt[1]] * 4
    assert [r.usage.prompt_tokens for r in results] == n_prompt
    assert [len(r.token_ids) for r in results] == lengths


def test_a_single_prompt_is_a_list_of_one(llm: LLM, paris: list[int]) -> None:
    ids = llm.engine.tokenize(PARIS)
    for prompt in (PARIS, [PARIS], ids, [ids], np.array(ids), [np.int64(i) for i in ids]):
        results = llm.generate(prompt, GREEDY)
        assert [r.token_ids for r in results] == [paris], repr(prompt)
    assert len(llm.generate(HELLO, GREEDY)) == 1


def test_no_prompts_give_no_results(llm: LLM) -> None:
    assert llm.generate([]) == []


@pytest.mark.parametrize(
    "dtype", ["int16", "int32", "int64", "uint16", "uint32", "uint64", ">i4", ">u8"]
)
def test_integer_arrays_of_any_layout_are_token_ids(llm: LLM, paris: list[int], dtype: str) -> None:
    ids = np.array(llm.engine.tokenize(PARIS)).astype(dtype)
    strided = np.repeat(ids, 2)[::2]
    strided.setflags(write=False)
    results = llm.generate([ids, strided], GREEDY)
    assert [r.token_ids for r in results] == [paris, paris]


def test_small_integer_arrays_are_token_ids(llm: LLM) -> None:
    results = llm.generate([[5, 100], *(np.array([5, 100], t) for t in ("int8", "uint8"))], GREEDY)
    assert [r.usage.prompt_tokens for r in results] == [2, 2, 2]
    assert llm.engine.detokenize(np.array([200, 201], "uint8")) == llm.engine.detokenize([200, 201])


def test_prompt_is_copied(llm: LLM, paris: list[int]) -> None:
    ids = np.array(llm.engine.tokenize(PARIS))
    stream = llm.engine.submit(ids, GREEDY)
    ids[:] = 5
    assert stream.result().token_ids == paris


def test_answer_ends_at_the_end_of_generation_token(llm: LLM) -> None:
    (eos,) = llm.engine.tokenize("<|im_end|>")
    result = llm.chat(HELLO, replace(GREEDY, max_tokens=40))
    assert result.finish_reason is FinishReason.STOP
    assert result.token_ids[-1] == eos
    assert result.usage.completion_tokens == len(result.token_ids) < 40
    assert result.text == llm.engine.detokenize(result.token_ids)
    assert "<|im_end|>" not in result.text
    forbidden = llm.chat(HELLO, replace(GREEDY, max_tokens=40, ignore_eos=True))
    assert forbidden.finish_reason is FinishReason.LENGTH
    assert eos not in forbidden.token_ids


def test_min_tokens_holds_the_end_back(llm: LLM) -> None:
    (eos,) = llm.engine.tokenize("<|im_end|>")
    wants_to_end = replace(GREEDY, logit_bias={eos: 100.0})
    early, late = llm.generate([PARIS] * 2, [wants_to_end, replace(wants_to_end, min_tokens=5)])
    assert early.token_ids == [eos]
    assert len(late.token_ids) >= 5
    assert eos not in late.token_ids[:-1]


def test_stop_strings_end_the_text_even_across_tokens(llm: LLM, paris: list[int]) -> None:
    pieces = [llm.engine.detokenize([token]) for token in paris]
    whole = "".join(pieces)
    # From inside the first token into the second, and over three of them.
    for stop in (pieces[0][-3:] + pieces[1][:1], pieces[0][-1:] + pieces[1] + pieces[2]):
        result = llm.generate(PARIS, replace(GREEDY, stop=["never seen", stop]))[0]
        assert result.finish_reason is FinishReason.STOP
        assert result.text == whole[: whole.index(stop)]
        deltas = list(llm.stream(PARIS, replace(GREEDY, stop=stop)))
        assert "".join(delta.text for delta in deltas) == result.text


def test_half_of_a_stop_string_is_text(llm: LLM, paris: list[int]) -> None:
    text = llm.engine.detokenize(paris)
    result = llm.generate(PARIS, replace(GREEDY, stop=text + "and never this"))[0]
    assert (result.text, result.finish_reason) == (text, FinishReason.LENGTH)


def test_stop_token_is_in_the_ids_but_not_in_the_text(llm: LLM, paris: list[int]) -> None:
    result = llm.generate(PARIS, replace(GREEDY, stop_token_ids=[paris[1]]))[0]
    assert result.token_ids == paris[:2]
    assert result.text == llm.engine.detokenize(paris[:1])
    assert result.finish_reason is FinishReason.STOP


def test_echo_begins_with_the_prompt(llm: LLM, paris: list[int]) -> None:
    result = llm.generate(PARIS, replace(GREEDY, echo=True))[0]
    assert result.text == PARIS + llm.engine.detokenize(paris)
    assert result.token_ids == paris


def test_seed_gives_the_same_answer_alone_and_in_company(llm: LLM) -> None:
    seeded = SamplingParams(max_tokens=8, seed=7, ignore_eos=True)
    alone = [llm.generate(PARIS, seeded)[0].token_ids for _ in range(2)]
    others = [SamplingParams(max_tokens=n) for n in (3, 9, 6)]
    beside = llm.generate([PARIS, "A", "B", "C"], [seeded, *others])[0].token_ids
    assert alone == [beside, beside]
    assert llm.generate(PARIS, replace(seeded, seed=8))[0].token_ids != beside


def test_requests_without_a_seed_differ(llm: LLM) -> None:
    results = llm.generate([PARIS] * 3, SamplingParams(max_tokens=8, temperature=2.0))
    assert len({tuple(r.token_ids) for r in results}) > 1


def test_top_k_of_one_is_greedy(llm: LLM, paris: list[int]) -> None:
    assert llm.generate(PARIS, SamplingParams(max_tokens=8, top_k=1))[0].token_ids == paris


def test_logit_bias_forces_and_forbids(llm: LLM, paris: list[int]) -> None:
    forced = replace(GREEDY, max_tokens=3, logit_bias={500: 100.0})
    assert llm.generate(PARIS, forced)[0].token_ids == [500] * 3
    forbidden = replace(GREEDY, logit_bias={paris[0]: -math.inf})
    assert paris[0] not in llm.generate(PARIS, forbidden)[0].token_ids


@pytest.mark.parametrize(
    "penalty",
    [{"repetition_penalty": 5.0}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}],
    ids=lambda penalty: next(iter(penalty)),
)
def test_penalties_make_an_answer_less_repetitive(llm: LLM, penalty: dict[str, Any]) -> None:
    params = replace(GREEDY, max_tokens=24, ignore_eos=True)
    prompt = "one two one two one two one two one two"
    plain = llm.generate(prompt, params)[0].token_ids
    penalized = llm.generate(prompt, replace(params, **penalty))[0].token_ids
    assert len(plain) == len(penalized) == 24
    assert len(set(plain)) <= 8
    assert len(set(penalized)) >= 16


def test_max_len_cuts_the_answer(templated: LLM) -> None:
    result = templated.generate(PARIS, replace(GREEDY, max_tokens=100, ignore_eos=True))[0]
    assert result.finish_reason is FinishReason.LENGTH
    assert result.usage.prompt_tokens + result.usage.completion_tokens == 80


def test_stream_gives_the_same_text_in_pieces(llm: LLM) -> None:
    params = replace(GREEDY, max_tokens=12)
    result = llm.generate(PARIS, params)[0]
    deltas = list(llm.stream(PARIS, params))
    assert "".join(delta.text for delta in deltas) == result.text
    assert [token for delta in deltas for token in delta.token_ids] == result.token_ids
    assert len(deltas) > 1
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason is FinishReason.LENGTH


def test_leaving_a_stream_cancels_it(llm: LLM) -> None:
    n_before = llm.engine.metrics().n_finished_cancelled
    for _ in llm.stream(PARIS, SamplingParams(max_tokens=1000, ignore_eos=True)):
        break
    wait_until_idle(llm)
    assert llm.engine.metrics().n_finished_cancelled == n_before + 1
    assert llm.engine.metrics().n_cells_reserved == 0


def test_chat_renders_messages_and_tools_with_the_template(templated: LLM) -> None:
    engine = templated.engine
    assert engine.apply_chat_template(HELLO).text == "user: Hi!\n"
    weather = ChatOptions(tools=[WEATHER])
    text = engine.apply_chat_template(HELLO, weather).text
    assert text.startswith("TOOL weather\nsystem: To call a tool, answer with")
    assert text.endswith("</tool_call>\nuser: Hi!\n")
    result = templated.chat(HELLO, SamplingParams(max_tokens=1), weather)
    assert result.usage.prompt_tokens == len(engine.tokenize(text))
    plain = templated.chat(HELLO, SamplingParams(max_tokens=1))
    assert plain.usage.prompt_tokens == len(engine.tokenize("user: Hi!\n"))


@pytest.mark.parametrize("text", ["hello world", "  two  spaces ", "a\n\tb\x00c", "café 🦙 日本"])
def test_detokenize_reverses_tokenize(llm: LLM, text: str) -> None:
    assert llm.engine.detokenize(llm.engine.tokenize(text)) == text


def test_special_tokens_have_names_only_when_asked_for(llm: LLM) -> None:
    (eos,) = llm.engine.tokenize("<|im_end|>")
    assert len(llm.engine.tokenize("<|im_end|>", parse_special=False)) > 1
    assert llm.engine.detokenize([eos]) == ""
    assert llm.engine.detokenize([eos], special=True) == "<|im_end|>"
