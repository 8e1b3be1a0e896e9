"""The prefix cache on the default model, and what a user can see and say of it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamaherd import (
    LLM,
    BatchEngine,
    EngineConfig,
    EngineDeadError,
    InvalidRequestError,
    SamplingParams,
)
from recorded import RecordedEngine, assert_rows_are_those_of

FOUR_TOKENS = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


def some_tokens(n: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000, 40000) for _ in range(n)]


@pytest.fixture
def engine(model_path: Path) -> Iterator[BatchEngine]:
    with BatchEngine(model_path, EngineConfig(n_ctx=2048, warmup=False)) as engine:
        yield engine


def cached(engine: BatchEngine, prompt: Any, **options: Any) -> int:
    return engine.submit(prompt, FOUR_TOKENS, **options).result().usage.cached_tokens


def test_a_cold_prefix_that_eight_ask_for_at_once_is_computed_once(model_path: Path) -> None:
    prefix = some_tokens(640, seed=1)
    prompts = [prefix + some_tokens(30, seed=2 + i) for i in range(8)]
    with LLM(model_path, EngineConfig(n_ctx=4096)) as llm:
        results = llm.generate(prompts, FOUR_TOKENS)
        metrics = llm.engine.metrics()
    n_outputs_run = 8 * 3
    n_computed = metrics.n_prefill_rows + metrics.n_decode_rows - n_outputs_run
    assert n_computed <= 1.01 * (640 + 8 * 30)
    assert sorted(r.usage.cached_tokens for r in results) == [0] + [640] * 7
    assert metrics.cache.n_followers == 7
    assert metrics.cache.n_from_in_flight == 7 * 640
    assert metrics.cache.follower_wait_ns > 0


# Agents: one system prompt, conversations that grow turn by turn ---------------------------------


def written_turns() -> Iterator[list[dict[str, str]]]:
    """Conversations of a made-up airline's help desk."""
    rng = random.Random(3)
    places = ["Oslo", "Lima", "Accra", "Perth", "Quito", "Turin", "Osaka", "Cork"]
    rules = [
        f"Rule {i}: a change from {places[i % 8]} to {places[(i * 3 + 1) % 8]} costs {i * 7} euros "
        f"and must be asked for {i} hours before departure."
        for i in range(1, 13)
    ]
    system = "You are an agent of an airline. Follow the policy.\n" + "\n".join(rules)
    for n_turns in itertools.chain([12], itertools.repeat(4)):
        name, place = rng.choice(["Ada", "Bo", "Cy", "Di"]), rng.choice(places)
        messages = [{"role": "system", "content": system}]
        for turn in range(n_turns):
            messages.append(
                {
                    "role": "user",
                    "content": f"I am {name}, turn {turn}. What of my flight to {place} number "
                    f"{rng.randrange(1000)}?",
                }
            )
            yield list(messages)
            answer = f"{name}, your flight to {place} leaves at {rng.randrange(24)} o'clock."
            messages.append({"role": "assistant", "content": answer})


def recorded_turns(path: Path) -> Iterator[list[dict[str, str]]]:
    """Conversations of tau-bench's agents, one after the other, each prefix that ends with a user's
    message; tool calls are written out."""
    for task in json.loads(path.read_text()):
        messages = []
        for message in task["traj"]:
            content = message.get("content") or json.dumps(message.get("tool_calls"))
            role = message["role"] if message["role"] in {"system", "user"} else "assistant"
            messages.append({"role": role, "content": content})
            if role == "user":
                yield list(messages)


def agent_prompts(tokenizer: BatchEngine, n: int) -> list[list[int]]:
    """Prompts of up to 800 tokens that begin with the same part of one system prompt."""
    folder = os.environ.get("LLAMAHERD_TEST_DATA")
    recorded = Path(folder or "") / "tau_bench_airline_80.json"
    turns = recorded_turns(recorded) if folder and recorded.is_file() else written_turns()
    prompts: list[list[int]] = []
    while len(prompts) < n:
        messages = next(turns)
        system = tokenizer.tokenize(messages[0]["content"])[:60]
        text = tokenizer.apply_chat_template(messages[1:]).text
        prompt = system + tokenizer.tokenize(text)
        if len(prompt) <= 800:
            prompts.append(prompt)
    return prompts


class Replay(RecordedEngine):
    """Prompts some steps apart."""

    def __init__(self, path: Path, prompts: list[list[int]], **options: Any) -> None:
        super().__init__(path, warmup=False, **options)
        for i, prompt in enumerate(prompts):
            self.submit(prompt, 3)
            if i % 3 == 2:
                self.step()
        self.finish()


@pytest.mark.slow
def test_agents_logits_are_those_computed_whole_to_the_bit(
    model_path: Path, engine: BatchEngine
) -> None:
    prompts = agent_prompts(engine, 36)
    assert len({tuple(prompt) for prompt in prompts}) > 30
    distinct = {tuple(p[: i + 1]) for p in prompts for i in range(len(p))}
    max_len = max(map(len, prompts)) + 8
    n_cells = max(max_len, len(distinct) // 3)
    cached = Replay(model_path, prompts, n_ctx=n_cells, max_len=max_len, cache_ram_mib=8)
    n_ctx = 8 * max_len
    whole = Replay(model_path, prompts, n_ctx=n_ctx, max_len=max_len, prefix_cache=False)
    assert [*cached.outputs.values()] == [*whole.outputs.values()]
    assert_rows_are_those_of(cached, whole)
    assert cached.metrics.cache.hit_rate > 0.5
    assert cached.metrics.n_prefill_rows < whole.metrics.n_prefill_rows / 2


# What a user says --------------------------------------------------------------------------------


def test_the_same_prompt_again_starts_at_once(engine: BatchEngine) -> None:
    prompt = some_tokens(100, seed=4)
    first = engine.submit(prompt, FOUR_TOKENS).result()
    again = engine.submit(prompt, FOUR_TOKENS).result()
    assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, 100)
    assert again.token_ids == first.token_ids
    assert engine.metrics().n_prompt_logits_hits == 1


def test_a_conversation_goes_on_where_it_ended(engine: BatchEngine) -> None:
    prompt = some_tokens(50, seed=5)
    answer = engine.submit(prompt, FOUR_TOKENS).result().token_ids
    # The last output token was never run.
    assert cached(engine, [*prompt, *answer, 5, 6, 7]) == 53


def test_private_requests_neither_use_nor_leave_anything(engine: BatchEngine) -> None:
    prompt = some_tokens(60, seed=6)
    assert cached(engine, prompt, cache=False) == 0
    assert cached(engine, prompt) == 0
    assert cached(engine, prompt, cache=False) == 0
    assert cached(engine, prompt) == 60
    assert engine.cache.stats().n_looked_up == 120


def test_salts_do_not_share(engine: BatchEngine) -> None:
    prompt = some_tokens(60, seed=7)
    assert [cached(engine, prompt, cache_salt=salt) for salt in ("", "a", "b", "a")] == [
        0,
        0,
        0,
        60,
    ]


def test_the_offline_interface_takes_the_same_options(model_path: Path) -> None:
    prompts = [some_tokens(60, seed=8)] * 2
    with LLM(model_path, EngineConfig(n_ctx=1024, warmup=False)) as llm:
        private = llm.generate(prompts, FOUR_TOKENS, cache=False)
        salted = llm.generate(prompts, FOUR_TOKENS, cache_salt="x")
    assert [r.usage.cached_tokens for r in private] == [0, 0]
    assert sorted(r.usage.cached_tokens for r in salted) == [0, 60]


def test_a_pinned_prefix_outlives_others(engine: BatchEngine) -> None:
    pinned, plain = some_tokens(300, seed=9), some_tokens(300, seed=10)
    engine.cache.pin("support", pinned).result()
    cached(engine, plain)
    for i in range(8):
        cached(engine, some_tokens(500, seed=20 + i), cache_salt=str(i))
    assert engine.cache.stats().n_pins == 1
    assert cached(engine, [*pinned, 7]) == 300
    stats = engine.cache.stats()
    assert stats.n_evicted_for_cells > 0
    engine.cache.unpin("support")
    engine.cache.unpin("nobody")
    cached(engine, [1, 2])
    assert engine.cache.stats().n_pins == 0


def test_a_pin_may_be_messages_or_text_and_end_by_itself(engine: BatchEngine) -> None:
    system = {"role": "system", "content": "You answer questions about the weather in Ghent."}
    engine.cache.pin("weather", [system], ttl_s=0.05).result()
    question = {"role": "user", "content": "Will it rain?"}
    assert cached(engine, [system, question]) >= len(engine.tokenize(str(system["content"])))
    engine.cache.pin("story", "Once upon a time in the west").result()
    for _ in range(3):
        cached(engine, "Once upon a time in the west there was a llama")
    assert engine.cache.stats().n_pins == 1


def test_clear_forgets_all(engine: BatchEngine) -> None:
    prompt = some_tokens(80, seed=11)
    engine.cache.pin("it", prompt).result()
    engine.cache.clear()
    assert cached(engine, prompt) == 0
    stats = engine.cache.stats()
    assert stats.n_evicted_by_clear == 80
    assert stats.n_pins == 0


@pytest.mark.parametrize(
    ("arguments", "error", "rule"),
    [
        ((5, [1]), TypeError, "name must be a str; got int"),
        (("x", []), InvalidRequestError, "at least 1 token"),
        (("x", 5), TypeError, "token ids"),
        (("x", [1] * 5000), InvalidRequestError, "the prompt has 5000"),
    ],
)
def test_bad_pins_are_refused(
    engine: BatchEngine, arguments: tuple[Any, Any], error: type[Exception], rule: str
) -> None:
    with pytest.raises(error, match=rule):
        engine.cache.pin(*arguments)
    assert cached(engine, [1, 2, 3]) == 0
    assert engine.cache.stats().n_pins == 0


def test_bad_options_are_refused(engine: BatchEngine) -> None:
    for ttl_s in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidRequestError, match="ttl_s must be > 0 and finite; got"):
            engine.cache.pin("x", [1], ttl_s=ttl_s)
    with pytest.raises(TypeError, match="cache_salt must be a str; got int"):
        engine.submit([1], cache_salt=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cache must be a bool; got str"):
        engine.submit([1], cache="no")  # type: ignore[arg-type]


def test_a_closed_engine_says_so(model_path: Path) -> None:
    engine = BatchEngine(model_path, EngineConfig(n_ctx=512, warmup=False))
    engine.close()
    for call in (engine.cache.clear, lambda: engine.cache.unpin("x")):
        with pytest.raises(EngineDeadError, match="closed"):
            call()
    with pytest.raises(EngineDeadError, match="closed"):
        engine.cache.pin("x", [1, 2])


# Files -------------------------------------------------------------------------------------------


def on_disk(path: Path, folder: Path) -> BatchEngine:
    options = {"n_ctx": 1024, "warmup": False, "cache_ram_mib": 0, "deterministic": True}
    config = EngineConfig(cache_dir=folder, **options)
    return BatchEngine(path, config)


def test_a_restarted_engine_knows_the_prefix(model_path: Path, tmp_path: Path) -> None:
    prompt = some_tokens(300, seed=12)
    folder = tmp_path / "kv"
    with on_disk(model_path, folder) as engine:
        first = engine.submit(prompt, FOUR_TOKENS).result()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.glob("*.llkv"))
    with on_disk(model_path, folder) as engine:
        again = engine.submit(prompt, FOUR_TOKENS).result()
        assert engine.cache.stats().n_from_disk == again.usage.cached_tokens == 299
        assert again.token_ids == first.token_ids
        engine.cache.clear()
        cached(engine, [1, 2])
        assert not list(folder.glob("*.llkv"))


def test_a_damaged_file_is_not_used(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = some_tokens(300, seed=13)
    with on_disk(model_path, tmp_path) as engine:
        first = engine.submit(prompt, FOUR_TOKENS).result()
    for file in tmp_path.glob("*.llkv"):
        data = bytearray(file.read_bytes())
        data[-1000] ^= 1
        file.write_bytes(data)
    with caplog.at_level(logging.WARNING, "llamaherd"), on_disk(model_path, tmp_path) as engine:
        again = engine.submit(prompt, FOUR_TOKENS).result()
        assert engine.cache.stats().n_damaged > 0
    assert (again.usage.cached_tokens, again.token_ids) == (0, first.token_ids)
    assert any("llkv" in record.message for record in caplog.records)


def test_a_folder_that_cannot_be_used_is_an_error_at_load(model_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with pytest.raises(InvalidRequestError, match=str(folder)):
            on_disk(model_path, folder)


def test_another_models_files_are_left_alone(model_path: Path, tmp_path: Path) -> None:
    prompt = some_tokens(200, seed=14)
    with on_disk(model_path, tmp_path) as engine:
        engine.submit(prompt, FOUR_TOKENS).result()
    n_files = len(list(tmp_path.glob("*.llkv")))
    config = EngineConfig(n_ctx=1024, warmup=False, kv_type="f32", cache_dir=tmp_path)
    with BatchEngine(model_path, config) as engine:
        assert cached(engine, prompt) == 0
    assert len(list(tmp_path.glob("*.llkv"))) >= n_files
