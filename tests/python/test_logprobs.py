"""Log-probabilities, several outputs, scores: on the real model, against each other and by hand."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llamaherd import (
    LLM,
    BatchEngine,
    EngineConfig,
    FinishReason,
    InvalidRequestError,
    SamplingParams,
)
from llamaherd.integrations.lm_eval import LmEvalAdapter
from llamaherd.offline.scoring import Piece, cut, encode

PARIS = "The capital of France is"
GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(model_path: Path) -> Iterator[LLM]:
    config = EngineConfig(deterministic=True, n_ctx=4096, max_seqs=4, n_threads=1)
    with LLM(model_path, config) as llm:
        yield llm


def test_a_prompts_logprobs_are_those_of_the_output_that_it_was(llm: LLM) -> None:
    prompt = llm.engine.tokenize(PARIS)
    answer = llm.generate([prompt], replace(GREEDY, logprobs=5))[0]
    assert [t.token_id for t in answer.logprobs] == answer.token_ids
    params = SamplingParams(
        max_tokens=0, prompt_logprobs=5, prompt_logprobs_from=len(prompt), temperature=0
    )
    again = llm.generate([[*prompt, *answer.token_ids]], params)[0]
    assert again.finish_reason == FinishReason.LENGTH
    assert again.token_ids == []
    assert again.usage.prompt_tokens == len(prompt) + 8
    for output, scored in zip(answer.logprobs, again.prompt_logprobs, strict=True):
        assert scored.token_id == output.token_id
        assert scored.logprob == pytest.approx(output.logprob, abs=1e-5)
        assert scored.rank == output.rank == 1
        assert scored.top == output.top
        assert output.top[0] == (output.token_id, output.logprob)
        assert len(output.top) == 5
        assert sum(math.exp(logprob) for _, logprob in output.top) < 1


def test_offsets_point_into_the_text(llm: LLM) -> None:
    params = replace(GREEDY, logprobs=0, prompt_logprobs=0, echo=True)
    result = llm.generate([PARIS], params)[0]
    tokens = [*result.prompt_logprobs, *result.logprobs]
    for token, after in itertools.pairwise(tokens):
        piece = llm.engine.token_bytes(token.token_id).decode()
        assert result.text[token.text_offset : after.text_offset] == piece


def test_a_long_prompt_is_scored_whole(llm: LLM) -> None:
    prompt = llm.engine.tokenize("In the beginning " * 100)
    whole = llm.generate([prompt], SamplingParams(max_tokens=0, prompt_logprobs=0))[0]
    assert len(whole.prompt_logprobs) == len(prompt) - 1
    later = SamplingParams(max_tokens=1, prompt_logprobs=0, prompt_logprobs_from=200)
    part = llm.generate([prompt], later, cache=False)[0]
    assert [t.logprob for t in part.prompt_logprobs] == pytest.approx(
        [t.logprob for t in whole.prompt_logprobs[199:]], abs=1e-5
    )


def test_n_outputs_cost_one_prefill(llm: LLM) -> None:
    prompt = llm.engine.tokenize("Once upon a time, in a small village by the sea, there lived")
    params = SamplingParams(max_tokens=12, seed=5, ignore_eos=True)
    before = llm.engine.metrics()
    result = llm.generate([prompt], replace(params, n=8))[0]
    after = llm.engine.metrics()
    assert after.n_prefill_rows - before.n_prefill_rows <= len(prompt)
    assert [choice.index for choice in result.choices] == list(range(8))
    assert len({choice.text for choice in result.choices}) == 8
    assert result.usage.completion_tokens == 8 * 12
    assert result.token_ids == llm.generate([prompt], params)[0].token_ids


def test_best_of_keeps_the_likeliest(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, seed=5, ignore_eos=True, logprobs=0)
    every = llm.generate([PARIS], replace(params, n=6))[0]
    best = llm.generate([PARIS], replace(params, n=2, best_of=6, logprobs=None))[0]

    def mean(index: int) -> float:
        return sum(t.logprob for t in every.choices[index].logprobs) / 8

    expected = sorted(range(6), key=mean, reverse=True)[:2]
    assert [choice.index for choice in best.choices] == expected
    assert best.text == every.choices[expected[0]].text
    assert best.logprobs == []


def test_a_stream_of_n_outputs_tells_them_apart(llm: LLM) -> None:
    params = SamplingParams(max_tokens=5, seed=1, ignore_eos=True, n=3)
    with llm.engine.submit(PARIS, params) as stream:
        texts = ["", "", ""]
        n_final = 0
        for delta in stream:
            texts[delta.index] += delta.text
            n_final += delta.finish_reason is not None
    assert n_final == 3
    assert texts == [choice.text for choice in stream.result().choices]


def test_cancelling_ends_all_outputs(llm: LLM) -> None:
    stream = llm.engine.submit(PARIS, SamplingParams(max_tokens=1000, n=6, ignore_eos=True))
    stream.cancel()
    result = stream.result(timeout=60)
    assert {choice.finish_reason for choice in result.choices} == {FinishReason.CANCELLED}


def test_each_output_of_a_prompt_takes_a_place_in_the_queue(model_path: Path) -> None:
    config = EngineConfig(n_ctx=1024, max_seqs=2, max_queued=6, n_threads=1, warmup=False)
    with LLM(model_path, config) as llm:
        params = SamplingParams(max_tokens=3, ignore_eos=True, n=8)
        results = llm.generate(["One", "Two", "Three"], params)
    assert [len(result.choices) for result in results] == [8, 8, 8]
    assert all(result.usage.completion_tokens == 24 for result in results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logprobs": 51}, r"logprobs must be in \[0, 50\]; got 51"),
        ({"prompt_logprobs": -1}, r"prompt_logprobs must be in \[0, 50\]; got -1"),
        ({"prompt_logprobs_from": 0}, "prompt_logprobs_from must be >= 1; got 0"),
        ({"max_tokens": 0}, "max_tokens must be >= 1; got 0"),
        ({"max_tokens": -2, "prompt_logprobs": 0}, "max_tokens must be >= 0; got -2"),
        ({"n": 0}, r"n must be in \[1, 128\]; got 0"),
        ({"n": 3, "best_of": 2}, r"best_of must be in \[n, 128\], with n 3; got 2"),
    ],
)
def test_bad_values_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        SamplingParams(**options)  # type: ignore[arg-type]


def test_bad_requests_are_refused(llm: LLM) -> None:
    engine: BatchEngine = llm.engine
    scored = SamplingParams(max_tokens=0, prompt_logprobs=0)
    with pytest.raises(InvalidRequestError, match="at least 2 tokens"):
        engine.submit([5], scored)
    with pytest.raises(InvalidRequestError, match="number of prompt tokens \\(3\\); got 3"):
        engine.submit([5, 6, 7], replace(scored, prompt_logprobs_from=3))
    with pytest.raises(
        InvalidRequestError, match=r"n and best_of must be 1 with cache=False; got 2 outputs"
    ):
        engine.submit(PARIS, SamplingParams(n=2), cache=False)
    with pytest.raises(InvalidRequestError, match=r"token ids must be in \[0, "):
        engine.token_bytes(-1)


def test_scores_are_those_of_single_tokens(llm: LLM) -> None:
    contexts = [PARIS, "Two plus two is"]
    continuations = [[" Paris", " the city of London"], [" four", " fish", " five"]]
    before = llm.engine.metrics().n_output_tokens
    scores = llm.score(contexts, continuations)
    assert llm.engine.metrics().n_output_tokens == before
    for context, texts, some in zip(contexts, continuations, scores, strict=True):
        for text, score in zip(texts, some, strict=True):
            [piece] = encode(llm.engine, context, [text])
            assert isinstance(piece, Piece)
            tokens = piece.tokens
            by_hand = 0.0
            for i in range(piece.begin, len(tokens)):
                step = llm.generate(
                    [tokens[:i]],
                    SamplingParams(
                        max_tokens=1, temperature=0, logprobs=0, logit_bias={tokens[i]: 1000}
                    ),
                )[0]
                assert step.token_ids == [tokens[i]]
                by_hand += step.logprobs[0].logprob
            assert score.logprob == pytest.approx(by_hand, abs=1e-4)
    assert llm.choose(PARIS, [" London", " Paris", " fish"]).text == " Paris"


def test_scores_are_given_up_once_nobody_wants_them(llm: LLM) -> None:
    stop = threading.Event()
    endless = [f" {i}" * 1000 for i in range(600)]
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    (scores,) = llm.score([PARIS], [endless], stop=stop)
    timer.join()
    assert len(scores) == len(endless)
    assert scores[-1].error == "the request was cancelled"
    (again,) = llm.score([PARIS], [[" Paris", " a"]], stop=stop)
    assert {score.error for score in again} == {"the request was cancelled"}
    assert llm.score([PARIS], [[" Paris"]], stop=threading.Event())[0][0].error == ""


def test_a_pair_that_breaks_a_rule_keeps_to_itself(llm: LLM) -> None:
    bad = [{"role": "user"}]
    scores, refused = llm.score([PARIS, bad], [[" Paris", "", " x" * 9000], ["a", "b"]])
    assert all("content" in score.error for score in refused)
    assert scores[0].error == ""
    assert "at least 1 token" in scores[1].error
    assert "max_len" in scores[2].error
    assert math.isnan(scores[2].logprob)
    with pytest.raises(InvalidRequestError, match="at least 1 choice"):
        llm.choose(PARIS, [])
    with pytest.raises(InvalidRequestError, match="1 prompts but 2 lists"):
        llm.score([PARIS], [[" a"], [" b"]])


def test_pieces_score_each_token_once() -> None:
    for n in (2, 7, 8, 9, 30):
        engine: Any = SimpleNamespace(
            tokenize=lambda text: list(range(int(text))),
            model_info=lambda: {"metadata": {"tokenizer.ggml.bos_token_id": "0"}},
        )
        for most, stride in ((8, 4), (8, 7), (2, 1), (5, 1)):
            found: list[int] = []
            for piece in cut(engine, str(n), most, stride):
                assert 1 <= piece.begin < len(piece.tokens) <= most
                found += piece.tokens[piece.begin :]
            assert found == list(range(1, n))


def test_perplexity_is_of_all_tokens(llm: LLM) -> None:
    texts = ["The cat sat on the mat. " * 20, "Llamas live in the Andes."]
    whole = llm.perplexity(texts)
    assert [len(score.tokens) for score in whole.texts] == [
        len(llm.engine.tokenize(text)) for text in texts
    ]
    all_logprobs = [t.logprob for score in whole.texts for t in score.tokens]
    assert whole.value == pytest.approx(math.exp(-sum(all_logprobs) / len(all_logprobs)))
    strided = llm.perplexity(texts, max_len=32, stride=16)
    assert len(strided.texts[0].tokens) == len(whole.texts[0].tokens)
    assert strided.value > whole.value
    with pytest.raises(InvalidRequestError, match=r"stride must be in \[1, 32\); got 32"):
        llm.perplexity(texts, max_len=32, stride=32)


def test_the_harnesss_requests(llm: LLM) -> None:
    model = LmEvalAdapter(llm)

    def request(*args: object) -> SimpleNamespace:
        return SimpleNamespace(args=args)

    pairs = model.loglikelihood([request(PARIS + " ", "Paris"), request(PARIS, " fish")])
    expected = llm.score([PARIS], [[" Paris", " fish"]])[0]
    assert [logprob for logprob, _ in pairs] == pytest.approx(
        [score.logprob for score in expected], abs=1e-5
    )
    assert [greedy for _, greedy in pairs] == [score.is_greedy for score in expected]
    rolling = model.loglikelihood_rolling([request("Llamas live in the Andes.")])
    assert rolling[0] == pytest.approx(
        llm.perplexity(["Llamas live in the Andes."]).texts[0].logprob, abs=1e-5
    )
    options = {"until": ["\n", "."], "max_gen_toks": 12, "do_sample": False}
    text = model.generate_until([request(PARIS, options)])[0]
    assert text == llm.generate([PARIS], replace(GREEDY, max_tokens=12, stop=("\n", ".")))[0].text
    with pytest.raises(InvalidRequestError, match="unknown option 'beams'"):
        model.generate_until([request(PARIS, {"beams": 4})])
