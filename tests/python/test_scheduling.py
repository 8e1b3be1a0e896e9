"""Classes, tenants, deadlines, bounded queues and preemption, on the default model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamaherd import (
    LLM,
    BatchEngine,
    EngineConfig,
    FinishReason,
    InvalidRequestError,
    QueueFullError,
    SamplingParams,
    Stream,
)
from recorded import RecordedEngine, assert_rows_are_those_of

PROMPTS = [[100 + i] * (3 + i % 5) for i in range(12)]


def greedy(n_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=n_tokens, temperature=0, ignore_eos=True)


def drive(engine: BatchEngine) -> None:
    while engine.step():
        pass


@pytest.fixture(scope="module")
def stepped(model_path: Path) -> Iterator[BatchEngine]:
    """Two requests at once, driven by the tests."""
    config = EngineConfig(n_ctx=512, max_seqs=2, max_queued=4, warmup=False)
    with BatchEngine(model_path, config, threaded=False) as engine:
        yield engine


def test_preempted_requests_are_those_alone_to_the_bit(model_path: Path) -> None:
    """Twice the cells' worth of requests: all finish, and none of it shows in their logits."""
    alone = RecordedEngine(model_path, n_ctx=1024, max_seqs=1, warmup=False, prefix_cache=False)
    for prompt in PROMPTS[:6]:
        alone.submit(prompt, 60)
    alone.finish()
    crowd = RecordedEngine(model_path, n_ctx=192, max_seqs=6, warmup=False)
    for prompt in PROMPTS[:6]:
        crowd.submit(prompt, 60)
    crowd.finish()
    assert crowd.metrics.n_preempted > 0
    assert crowd.metrics.n_finished_length == 6
    assert list(crowd.outputs.values()) == list(alone.outputs.values())
    assert_rows_are_those_of(crowd, alone)


def test_lower_classes_run_first_and_take_places(stepped: BatchEngine) -> None:
    ended: list[int] = []
    slow = [stepped.submit(prompt, greedy(12), priority=10) for prompt in PROMPTS[:3]]
    for _ in range(3):
        stepped.step()
    urgent = stepped.submit(PROMPTS[3], greedy(4), priority=0)
    streams = [*slow, urgent]
    while stepped.step():
        ended += [i for i, s in enumerate(streams) if s.finished and i not in ended]
    assert ended[0] == 3
    timings = [stream.result().timing for stream in streams]
    assert all(timing is not None for timing in timings)
    preempted = [timing.n_preempted for timing in timings if timing is not None]
    assert preempted == [0, 1, 0, 0]
    assert timings[1] is not None
    assert timings[1].spent_ns["preempted"] > 0


def test_tenants_get_their_shares(model_path: Path) -> None:
    config = EngineConfig(
        n_ctx=512, max_seqs=1, warmup=False, prefix_cache=False, tenant_weights={"paying": 3}
    )
    with BatchEngine(model_path, config, threaded=False) as engine:
        order: list[str] = []
        streams: list[tuple[str, Stream]] = []
        for i in range(12):
            tenant = "free" if i < 8 else "paying"
            streams.append((tenant, engine.submit(PROMPTS[i], greedy(3), tenant=tenant)))
        while engine.step():
            order += [t for t, s in streams if s.finished]
            streams = [(t, s) for t, s in streams if not s.finished]
    assert order[:5].count("paying") >= 3, "though all of theirs came later"


def test_a_missed_deadline_ends_a_request_with_what_it_has(stepped: BatchEngine) -> None:
    late = stepped.submit(PROMPTS[0], greedy(200), deadline_s=1e-6)
    in_time = stepped.submit(PROMPTS[1], greedy(4), deadline_s=3600, ttft_deadline_s=3600)
    stepped.step()
    assert late.result().finish_reason is FinishReason.DEADLINE
    assert late.result().token_ids == []
    drive(stepped)
    assert in_time.result().finish_reason is FinishReason.LENGTH
    assert stepped.metrics().n_finished_deadline == 1
    assert stepped.metrics().n_shed == 1


def test_a_full_queue_refuses_and_says_until_when(stepped: BatchEngine) -> None:
    streams = [stepped.submit(prompt, greedy(4)) for prompt in PROMPTS[:6]]
    with pytest.raises(
        QueueFullError, match=r"at most 4 requests may be queued \(max_queued\)"
    ) as full:
        stepped.submit(PROMPTS[6], greedy(4))
    assert 0 < full.value.retry_after_s < 1000
    drive(stepped)
    assert all(stream.finished for stream in streams)
    stepped.submit(PROMPTS[6], greedy(4))
    drive(stepped)


def test_a_list_waits_for_places_in_the_queue(model_path: Path) -> None:
    config = EngineConfig(n_ctx=512, max_seqs=2, max_queued=1, warmup=False)
    with LLM(model_path, config) as llm:
        prompts = [*PROMPTS, [10**9]]
        results = llm.generate(prompts, greedy(4), priority=3, tenant="lists")
        alone = [llm.generate([prompt], greedy(4))[0] for prompt in PROMPTS]
    assert [len(r.token_ids) for r in results] == [4] * 12 + [0]
    assert [r.usage.prompt_tokens for r in results[:12]] == [len(prompt) for prompt in PROMPTS]
    assert results[12].finish_reason is FinishReason.ERROR
    assert len(alone) == 12


def test_prompts_that_begin_alike_run_together(model_path: Path) -> None:
    """In the order given, a cache of two prompts' size would forget each before it comes again."""
    groups = [[1000 + g] * 100 for g in range(8)]
    prompts = [[*group, 10 + i] for i in range(4) for group in groups]
    config = EngineConfig(n_ctx=240, max_seqs=1, cache_ram_mib=0, warmup=False)
    with LLM(model_path, config) as llm:
        llm.generate(prompts, greedy(1))
        n_computed = llm.engine.metrics().n_prefill_rows + llm.engine.metrics().n_decode_rows
    assert n_computed <= 8 * 100 + len(prompts) + 8


def test_where_the_time_went_adds_up(model_path: Path) -> None:
    config = EngineConfig(n_ctx=256, max_seqs=4, warmup=False)
    with BatchEngine(model_path, config) as engine:
        streams = [engine.submit(prompt * 8, greedy(24)) for prompt in PROMPTS]
        for stream in streams:
            timing = stream.result().timing
            assert timing is not None
            latency = timing.last_ns - timing.submit_ns
            assert sum(timing.spent_ns.values()) == pytest.approx(latency, rel=0.01)
            assert timing.spent_ns["decode"] > 0
            assert timing.spent_ns["engine"] < latency


def test_a_trace_opens_as_chromes_format(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with BatchEngine(model_path, EngineConfig(n_ctx=256, max_seqs=2, warmup=False)) as engine:
        engine.start_trace()
        for stream in [engine.submit(prompt, greedy(5)) for prompt in PROMPTS[:3]]:
            stream.result()
        engine.save_trace(path)
        n_calls = engine.metrics().n_decode_calls + engine.metrics().n_prefill_calls
        with pytest.raises(OSError, match="nowhere"):
            engine.save_trace(tmp_path / "nowhere" / "trace.json")
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in slices)
    calls = [event for event in slices if event["pid"] == 1]
    assert len(calls) == n_calls
    assert all(event["args"]["predicted ms"] >= 0 for event in calls)
    assert {e["name"] for e in slices if e["pid"] == 2} >= {"queued", "prefill", "decode"}


def test_health_of_a_working_and_a_closed_engine(model_path: Path) -> None:
    engine = BatchEngine(model_path, EngineConfig(n_ctx=256, max_seqs=1, warmup=False))
    engine.submit(PROMPTS[0], greedy(3)).result()
    assert engine.health().ok
    assert engine.health().reason == ""
    engine.close()
    assert not engine.health().ok
    assert engine.health().reason == "closed"


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"priority": -1}, r"priority must be in \[0, 100\]; got -1"),
        ({"priority": 101}, r"priority must be in \[0, 100\]; got 101"),
        ({"tenant": "x" * 257}, "tenant must have at most 256 bytes; got 257"),
        ({"deadline_s": 0}, r"deadline_s must be in \(0, 1e9\] seconds; got 0"),
        ({"deadline_s": math.nan}, "deadline_s must be in"),
        ({"ttft_deadline_s": -1.0}, "ttft_deadline_s must be in"),
    ],
)
def test_what_submit_refuses(engine: BatchEngine, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidRequestError, match=rule):
        engine.submit("The", **options)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"max_queued": 0}, "max_queued must be >= 1; got 0"),
        ({"max_queued_tokens": 0}, "max_queued_tokens must be >= 1; got 0"),
        ({"aging_s": 0}, "aging_s must be > 0; got 0"),
        ({"aging_s": math.nan}, "aging_s must be > 0"),
        ({"tenant_weights": {"a": 0}}, r"tenant_weights must be in \[1e-6, 1e6\] for 'a'; got 0"),
        ({"tenant_weights": {"a" * 257: 1}}, "a name in tenant_weights must have at most 256"),
    ],
)
def test_what_a_config_refuses(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidRequestError, match=rule):
        EngineConfig(**options)


def test_types_are_not_guessed(engine: BatchEngine) -> None:
    with pytest.raises(TypeError, match="priority"):
        engine.submit("The", priority=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tenant"):
        engine.submit("The", tenant=7)  # type: ignore[arg-type]
    assert EngineConfig(aging_s=math.inf).aging_s == math.inf
