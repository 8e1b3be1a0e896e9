"""A request's logits and tokens do not depend on what else the engine runs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from llamaherd import EngineConfig, SamplingParams, _core
from llamaherd.cli.demo import QUESTIONS

N_TOKENS = 12


class Run:
    """Drives one deterministic engine by hand and notes every logits row by its token prefix."""

    def __init__(self, path: Path, **config: int) -> None:
        self.record = _core.LogitsRecord()
        self.engine = _core.BatchEngine(
            str(path),
            EngineConfig(deterministic=True, n_ctx=4096, **config)._to_core(),
            _core.LoadProgress(),
            False,
            self.record,
        )
        self.questions: dict[int, int] = {}
        self.outputs: dict[int, list[int]] = {}

    def submit(self, question: int) -> int:
        tokens = self.engine.tokenize(QUESTIONS[question], True, True)
        # Lengths differ, so that requests end at different steps and leave holes in the cache.
        n_tokens = N_TOKENS + 3 * (question % 4)
        params = SamplingParams(temperature=0, max_tokens=n_tokens, ignore_eos=True)
        request = self.engine.submit(tokens, params._to_core())
        self.questions[request] = question
        self.outputs[question] = []
        return request

    def step(self) -> bool:
        more = self.engine.step()
        for delta in self.engine.drain(0):
            assert not delta.error
            self.outputs[self.questions[delta.request_id]] += delta.token_ids
        return more

    def finish(self) -> Run:
        while self.step():
            pass
        self.engine.close()
        return self


@pytest.fixture(scope="module")
def alone(model_path: Path) -> Run:
    """Each question with the engine to itself."""
    run = Run(model_path, max_seqs=1)
    for question in range(len(QUESTIONS)):
        run.submit(question)
        while run.step():
            pass
    return run.finish()


def assert_same_to_the_bit(run: Run, alone: Run) -> None:
    assert run.outputs == alone.outputs
    expected = alone.record.rows()
    rows = run.record.rows()
    assert rows.keys() == expected.keys()
    for prefix, hashes in rows.items():
        assert set(hashes) == set(expected[prefix])
    assert len(rows) > N_TOKENS * len(QUESTIONS)


def test_batched_logits_are_those_of_each_request_alone(model_path: Path, alone: Run) -> None:
    run = Run(model_path, max_seqs=16)
    for question in range(len(QUESTIONS)):
        run.submit(question)
    assert_same_to_the_bit(run.finish(), alone)


def test_staggered_logits_are_those_of_each_request_alone(model_path: Path, alone: Run) -> None:
    run = Run(model_path, max_seqs=6)
    order = list(range(len(QUESTIONS)))
    random.Random(7).shuffle(order)
    for question in order:
        run.submit(question)
        run.step()
        run.step()
    assert_same_to_the_bit(run.finish(), alone)


def test_logits_after_freed_neighbours_are_those_of_each_request_alone(
    model_path: Path, alone: Run
) -> None:
    run = Run(model_path, max_seqs=8)
    # Neighbours that decode in lockstep interleave their cells; cancelling every other one leaves
    # holes of single cells that the questions' cells then fill out of order.
    tokens = run.engine.tokenize("Once upon a time there was a herd of llamas.", True, True)
    params = SamplingParams(temperature=0.5, seed=1, max_tokens=64, ignore_eos=True)._to_core()
    neighbours = [run.engine.submit([*tokens, i], params) for i in range(8)]
    for neighbour in neighbours:
        run.questions[neighbour] = -1
    run.outputs[-1] = []
    for _ in range(24):
        run.step()
    for neighbour in neighbours[::2]:
        run.engine.cancel(neighbour)
    noise = set(run.record.rows())
    for question in range(len(QUESTIONS)):
        run.submit(question)
        run.step()
    run.finish()
    del run.outputs[-1]
    assert run.outputs == alone.outputs
    expected, rows = alone.record.rows(), run.record.rows()
    assert expected.keys() <= rows.keys() - noise
    assert all(set(rows[prefix]) == set(expected[prefix]) for prefix in expected)


def test_chunked_prefill_and_one_thread_give_the_same_logits(model_path: Path, alone: Run) -> None:
    long_prompt = " ".join(QUESTIONS)
    runs = []
    for config in ({"max_seqs": 1, "token_budget": 2048}, {"max_seqs": 4, "token_budget": 64}):
        run = Run(model_path, n_threads=(runs and 1) or 2, **config)
        tokens = run.engine.tokenize(long_prompt, True, True)
        assert len(tokens) > 128
        request = run.engine.submit(
            tokens, SamplingParams(temperature=0, max_tokens=N_TOKENS, ignore_eos=True)._to_core()
        )
        run.questions[request] = 0
        run.outputs[0] = []
        runs.append(run.finish())
    assert runs[0].outputs == runs[1].outputs
    assert runs[0].record.rows() == runs[1].record.rows()


def test_a_seeded_request_draws_the_same_tokens_whatever_runs_beside_it(model_path: Path) -> None:
    params = SamplingParams(temperature=1.2, top_k=50, seed=42, max_tokens=N_TOKENS)._to_core()
    outputs = []
    for n_neighbours in (0, 5):
        run = Run(model_path, max_seqs=6)
        for question in range(n_neighbours):
            run.submit(question)
        request = run.engine.submit(run.engine.tokenize(QUESTIONS[9], True, True), params)
        run.questions[request] = 99
        run.outputs[99] = []
        outputs.append(run.finish().outputs[99])
    assert outputs[0] == outputs[1]
