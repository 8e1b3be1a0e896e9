"""A request's logits and tokens do not depend on what else the engine runs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from llamaherd.cli.demo import QUESTIONS
from recorded import RecordedEngine, assert_rows_are_those_of

N_TOKENS = 12


class Run(RecordedEngine):
    """The demo's questions, each with a length of its own."""

    def __init__(self, path: Path, **options: int) -> None:
        super().__init__(path, n_ctx=4096, **options)
        self.questions: dict[int, int] = {}  # request id -> question

    def ask(self, question: int) -> None:
        # Lengths differ, so that requests end at different steps and leave holes in the cache.
        n_tokens = N_TOKENS + 3 * (question % 4)
        tokens = self.engine.tokenize(QUESTIONS[question], True, True)
        self.questions[self.submit(tokens, n_tokens)] = question

    def answers(self) -> dict[int, list[int]]:
        """Output tokens by question."""
        return {question: self.outputs[request] for request, question in self.questions.items()}


@pytest.fixture(scope="module")
def alone(model_path: Path) -> Run:
    """Each question with the engine to itself."""
    run = Run(model_path, max_seqs=1)
    for question in range(len(QUESTIONS)):
        run.ask(question)
        while run.step():
            pass
    run.finish()
    return run


def assert_same_to_the_bit(run: Run, alone: Run) -> None:
    assert run.answers() == alone.answers()
    assert run.rows().keys() == alone.rows().keys()
    assert_rows_are_those_of(run, alone)
    assert len(run.rows()) > N_TOKENS * len(QUESTIONS)


def test_batched_logits_are_those_of_each_request_alone(model_path: Path, alone: Run) -> None:
    run = Run(model_path, max_seqs=16)
    for question in range(len(QUESTIONS)):
        run.ask(question)
    run.finish()
    assert_same_to_the_bit(run, alone)


def test_staggered_logits_are_those_of_each_request_alone(model_path: Path, alone: Run) -> None:
    run = Run(model_path, max_seqs=6)
    order = list(range(len(QUESTIONS)))
    random.Random(7).shuffle(order)
    for question in order:
        run.ask(question)
        run.step()
        run.step()
    run.finish()
    assert_same_to_the_bit(run, alone)


def test_logits_after_freed_neighbours_are_those_of_each_request_alone(
    model_path: Path, alone: Run
) -> None:
    run = Run(model_path, max_seqs=8)
    # Neighbours that decode in lockstep interleave their cells; cancelling every other one leaves
    # holes of single cells that the questions' cells then fill out of order.
    tokens = run.engine.tokenize("Once upon a time there was a herd of llamas.", True, True)
    neighbours = [run.submit([*tokens, i], 64, temperature=0.5, seed=1) for i in range(8)]
    for _ in range(24):
        run.step()
    for neighbour in neighbours[::2]:
        run.engine.cancel(neighbour)
    noise = set(run.rows())
    for question in range(len(QUESTIONS)):
        run.ask(question)
        run.step()
    run.finish()
    assert run.answers() == alone.answers()
    expected, rows = alone.rows(), run.rows()
    assert expected.keys() <= rows.keys() - noise
    assert all(set(rows[prefix]) == set(expected[prefix]) for prefix in expected)


def test_chunked_prefill_and_one_thread_give_the_same_logits(model_path: Path) -> None:
    runs = []
    for options in (
        {"max_seqs": 1, "token_budget": 2048, "n_threads": 2},
        {"max_seqs": 4, "token_budget": 64, "n_threads": 1},
    ):
        run = Run(model_path, **options)
        tokens = run.engine.tokenize(" ".join(QUESTIONS), True, True)
        assert len(tokens) > 128
        run.submit(tokens, N_TOKENS)
        run.finish()
        runs.append(run)
    assert [*runs[0].outputs.values()] == [*runs[1].outputs.values()]
    assert runs[0].rows() == runs[1].rows()


def test_guessed_tokens_leave_every_row_and_token_as_it_was(model_path: Path) -> None:
    runs = []
    for prompt_lookup in (False, True):
        run = Run(model_path, max_seqs=1, prompt_lookup=prompt_lookup)
        run.submit(run.engine.tokenize("one two three four five " * 16, True, True), 8 * N_TOKENS)
        run.finish()
        runs.append(run)
    without, guessed = runs
    assert guessed.outputs == without.outputs
    # Whether guessing pays is measured; rows of wrong guesses come on top.
    assert without.rows().keys() <= guessed.rows().keys()
    assert all(set(guessed.rows()[prefix]) == set(rows) for prefix, rows in without.rows().items())


def test_a_seeded_request_draws_the_same_tokens_whatever_runs_beside_it(model_path: Path) -> None:
    drawn = {"temperature": 1.2, "top_k": 50, "seed": 42, "ignore_eos": False}
    outputs = []
    for n_neighbours in (0, 5):
        run = Run(model_path, max_seqs=6)
        for question in range(n_neighbours):
            run.ask(question)
        tokens = run.engine.tokenize(QUESTIONS[9], True, True)
        request = run.submit(tokens, N_TOKENS, **drawn)
        run.finish()
        outputs.append(run.outputs[request])
    assert outputs[0] == outputs[1]
