"""Streams: many callers at once, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_models
from llamaherd import (
    BatchEngine,
    Delta,
    EngineConfig,
    EngineDeadError,
    FinishReason,
    RequestOutput,
    SamplingParams,
    Stream,
    as_completed,
)

PROMPTS = ["The capital of France is", "Once upon a time", "One two three", "Water"]
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
LONG = SamplingParams(max_tokens=1500, temperature=0, ignore_eos=True)
WAIT_S = 300


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[BatchEngine]:
    with BatchEngine(
        model_path, EngineConfig(deterministic=True, n_ctx=4096, max_seqs=4, n_threads=1)
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(engine: BatchEngine) -> dict[str, list[int]]:
    return {prompt: engine.submit(prompt, GREEDY).result().token_ids for prompt in PROMPTS}


@pytest.fixture(autouse=True)
def idle_again(engine: BatchEngine) -> Iterator[None]:
    """Each test leaves nothing behind in the engine."""
    yield
    wait_for(lambda: engine.metrics().n_running + engine.metrics().n_waiting == 0)
    assert engine.metrics().n_cells_reserved == 0
    assert engine.metrics().n_cells_reserved == 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def fill(engine: BatchEngine) -> list[Stream]:
    """Requests that take all four sequences for long, running."""
    params = SamplingParams(max_tokens=900, ignore_eos=True)
    streams = [engine.submit("The", params) for _ in range(4)]
    for stream in streams:
        next(iter(stream))
    return streams


def test_a_hundred_threads_get_their_own_answers(
    engine: BatchEngine, alone: dict[str, list[int]]
) -> None:
    def ask(index: int) -> tuple[str, list[int]]:
        prompt = PROMPTS[index % len(PROMPTS)]
        stream = engine.submit(prompt, GREEDY)
        if index % 2:
            return prompt, stream.result(WAIT_S).token_ids
        return prompt, [token for delta in stream for token in delta.token_ids]

    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(ask, range(100)))
    assert len(answers) == 100
    assert all(tokens == alone[prompt] for prompt, tokens in answers)


async def test_a_hundred_tasks_get_their_own_answers(
    engine: BatchEngine, alone: dict[str, list[int]]
) -> None:
    async def ask(index: int) -> tuple[str, list[int]]:
        prompt = PROMPTS[index % len(PROMPTS)]
        stream = engine.submit(prompt, GREEDY)
        if index % 2:
            return prompt, (await stream.aresult()).token_ids
        return prompt, [token async for delta in stream for token in delta.token_ids]

    answers = await asyncio.wait_for(asyncio.gather(*map(ask, range(100))), WAIT_S)
    assert all(tokens == alone[prompt] for prompt, tokens in answers)


async def test_several_event_loops_share_an_engine(
    engine: BatchEngine, alone: dict[str, list[int]]
) -> None:
    async def ask_all() -> list[list[int]]:
        results = await asyncio.gather(*(engine.submit(p, GREEDY).aresult() for p in PROMPTS))
        return [result.token_ids for result in results]

    def in_a_loop_of_its_own(_: int) -> list[list[int]]:
        return asyncio.run(ask_all())

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(in_a_loop_of_its_own, range(4)))
    assert [*answers, await ask_all()] == [list(alone.values())] * 5


def test_iterating_and_result_give_the_same(engine: BatchEngine) -> None:
    stream = engine.submit(PROMPTS[0], GREEDY)
    deltas = list(stream)
    result = stream.result()
    assert "".join(delta.text for delta in deltas) == result.text
    assert [token for delta in deltas for token in delta.token_ids] == result.token_ids
    assert [d.finish_reason for d in deltas] == [None] * (len(deltas) - 1) + [FinishReason.LENGTH]
    assert {delta.request_id for delta in deltas} == {stream.request_id}
    assert list(stream) == []
    late = engine.submit(PROMPTS[0], GREEDY)
    assert late.result().token_ids == result.token_ids
    assert [token for delta in late for token in delta.token_ids] == result.token_ids


def test_deltas_and_metrics_are_read_only(engine: BatchEngine) -> None:
    delta = next(iter(engine.submit(PROMPTS[0], GREEDY)))
    for name in (n for n in dir(delta) if not n.startswith("_")):
        with pytest.raises(AttributeError):
            setattr(delta, name, getattr(delta, name))
    delta.token_ids.append(5)
    assert len(delta.token_ids) == 1
    metrics = engine.metrics()
    for figures in (metrics, metrics.cache):
        for name, value in figures.as_dict().items():
            found = getattr(figures, name)
            assert (found.as_dict() if name == "cache" else found) == value
            with pytest.raises(AttributeError):
                setattr(figures, name, 0)
    with pytest.raises(AttributeError, match="n_nothing"):
        _ = metrics.n_nothing


def test_timing_is_in_order(engine: BatchEngine) -> None:
    begin = time.monotonic_ns()
    timing = engine.submit(PROMPTS[0], GREEDY).result().timing
    assert timing is not None
    moments = [timing.submit_ns, timing.start_ns, timing.first_token_ns, timing.last_ns]
    assert sorted(moments) == moments
    assert begin <= moments[0]
    assert moments[-1] <= time.monotonic_ns()


def test_as_completed_gives_each_stream_once_it_has_ended(engine: BatchEngine) -> None:
    lengths = [8, 2, 5]
    streams = [
        engine.submit(p, SamplingParams(max_tokens=n, ignore_eos=True))
        for p, n in zip(PROMPTS, lengths, strict=False)
    ]
    done = []
    for stream in as_completed(streams):
        assert stream.finished
        done.append(stream.usage.completion_tokens)
    assert sorted(done) == sorted(lengths)
    assert done[0] == 2
    assert len(list(as_completed(streams))) == 3
    assert list(as_completed([])) == []


def test_timeout_leaves_the_request_running(engine: BatchEngine) -> None:
    stream = engine.submit(PROMPTS[0], LONG)
    with pytest.raises(TimeoutError, match="did not end"):
        stream.result(timeout=0.01)
    first = stream.usage.completion_tokens
    wait_for(lambda: stream.usage.completion_tokens > first)
    stream.cancel()
    assert stream.result(WAIT_S).finish_reason is FinishReason.CANCELLED


def test_usage_while_running_counts_up(engine: BatchEngine) -> None:
    stream = engine.submit(PROMPTS[0], LONG)
    seen = []
    for delta in stream:
        assert delta.n_completion <= stream.usage.completion_tokens
        seen.append(delta.n_completion)
        if len(seen) == 5:
            stream.cancel()
            break
    assert seen == [1, 2, 3, 4, 5]
    assert stream.usage.prompt_tokens == len(engine.tokenize(PROMPTS[0]))
    result = stream.result(WAIT_S)
    assert result.usage == stream.usage
    assert result.usage.completion_tokens == len(result.token_ids) >= 5


def test_cancel_while_running_keeps_what_was_generated(engine: BatchEngine) -> None:
    stream = engine.submit(PROMPTS[0], LONG)
    first = next(iter(stream))
    stream.cancel()
    stream.cancel()
    result = stream.result(WAIT_S)
    assert result.finish_reason is FinishReason.CANCELLED
    assert result.token_ids[:1] == first.token_ids
    assert 1 <= len(result.token_ids) < 1500
    assert (stream.finished, result.error) == (True, "")
    stream.cancel()


def test_cancel_while_waiting(engine: BatchEngine) -> None:
    running = fill(engine)
    waiting = engine.submit("One", GREEDY)
    waiting.cancel()
    result = waiting.result(WAIT_S)
    assert (result.finish_reason, result.token_ids) == (FinishReason.CANCELLED, [])
    assert not any(stream.finished for stream in running)
    for stream in running:
        stream.cancel()


async def test_leaving_a_with_block_cancels(engine: BatchEngine) -> None:
    with engine.submit(PROMPTS[0], LONG) as stream:
        next(iter(stream))
    async with engine.submit(PROMPTS[0], LONG) as other:
        async for _ in other:
            break
    for result in (stream.result(WAIT_S), await other.aresult()):
        assert result.finish_reason is FinishReason.CANCELLED


async def test_waiting_for_a_result_leaves_the_event_loop_free(engine: BatchEngine) -> None:
    stream = engine.submit(PROMPTS[0], SamplingParams(max_tokens=24, ignore_eos=True))
    waiting = asyncio.create_task(stream.aresult())
    seen: set[int] = set()
    while not waiting.done():
        await asyncio.sleep(0)
        seen.add(stream.usage.completion_tokens)
    assert (await waiting).finish_reason is FinishReason.LENGTH
    assert len(seen) > 5


async def test_a_cancelled_task_does_not_disturb_others(
    engine: BatchEngine, alone: dict[str, list[int]]
) -> None:
    started = asyncio.Event()

    async def iterate() -> None:
        async with engine.submit(PROMPTS[0], LONG) as stream:
            async for _ in stream:
                started.set()

    task = asyncio.create_task(iterate())
    await asyncio.wait_for(started.wait(), WAIT_S)
    others = [asyncio.create_task(engine.submit(p, GREEDY).aresult()) for p in PROMPTS]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    results: list[RequestOutput] = await asyncio.wait_for(asyncio.gather(*others), WAIT_S)
    assert [r.token_ids for r in results] == list(alone.values())


def test_iterators_of_one_stream_share_its_deltas(engine: BatchEngine) -> None:
    stream = engine.submit(PROMPTS[0], SamplingParams(max_tokens=40, ignore_eos=True))
    parts: list[list[Delta]] = [[], [], [], []]

    def take(part: list[Delta], iterator: Iterator[Delta]) -> None:
        part.extend(iterator)

    async def take_async(part: list[Delta], iterator: AsyncIterator[Delta]) -> None:
        part.extend([delta async for delta in iterator])

    threads = [threading.Thread(target=take, args=(part, iter(stream))) for part in parts[:2]]
    threads += [
        threading.Thread(target=lambda p=part: asyncio.run(take_async(p, aiter(stream))))
        for part in parts[2:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    deltas = sorted((d for part in parts for d in part), key=lambda d: d.n_completion)
    assert [token for d in deltas for token in d.token_ids] == stream.result().token_ids


def test_a_thousand_submits_and_cancels_leave_nothing_behind(engine: BatchEngine) -> None:
    before = engine.metrics()
    streams = []
    for i in range(1000):
        streams.append(engine.submit([i % 300 + 20] * (i % 5 + 1), LONG))
        if i % 3:
            streams[-1].cancel()
        elif i % 2:
            streams[i // 2].cancel()
    for stream in streams:
        stream.cancel()
    assert {stream.result(WAIT_S).finish_reason for stream in streams} == {FinishReason.CANCELLED}
    wait_for(lambda: engine.metrics().n_running + engine.metrics().n_waiting == 0)
    after = engine.metrics()
    assert after.n_submitted - before.n_submitted == 1000
    assert after.n_finished_cancelled - before.n_finished_cancelled == 1000
    assert after.n_cells_reserved == 0


def test_an_engine_without_a_thread_is_driven_by_step(
    model_path: Path, alone: dict[str, list[int]]
) -> None:
    config = EngineConfig(deterministic=True, n_ctx=4096, max_seqs=4, n_threads=1)
    with BatchEngine(model_path, config, threaded=False) as engine:
        assert engine.step() is False
        streams = [engine.submit(prompt, GREEDY) for prompt in PROMPTS]
        with pytest.raises(TimeoutError):
            streams[0].result(timeout=0)
        n_steps = 1
        while engine.step():
            n_steps += 1
            assert n_steps < 100
        assert [stream.result(0).token_ids for stream in streams] == list(alone.values())
        left = engine.submit("The", GREEDY)
    assert left.result(0).finish_reason is FinishReason.CANCELLED
    with pytest.raises(EngineDeadError):
        engine.step()


def test_progress_tells_the_place_in_the_queue_then_the_tokens_done(engine: BatchEngine) -> None:
    running = fill(engine)
    waiting = [engine.submit([7 + i] * 50, LONG) for i in range(3)]
    for place, stream in enumerate(waiting, 1):
        progress = stream.progress()
        assert progress is not None
        assert (progress.queue_position, progress.n_prompt, progress.n_computed) == (place, 50, 0)
        assert progress.start_ns == progress.n_preempted == 0
        assert progress.time_ns > 0
    waiting[0].cancel()
    wait_for(lambda: waiting[0].finished)
    assert waiting[0].progress() is None
    second = waiting[1].progress()
    assert second is not None
    assert second.queue_position == 1
    for stream in running:
        stream.cancel()
    next(iter(waiting[1]))
    begun = waiting[1].progress()
    assert begun is not None
    assert (begun.queue_position, begun.n_computed) == (0, 50)
    assert begun.start_ns > 0
    for stream in waiting:
        stream.cancel()


def test_progress_without_waiting_is_what_the_call_before_led_to(engine: BatchEngine) -> None:
    with engine.submit("Once upon a time", LONG) as stream:
        first = stream.progress(timeout=0)
        assert first is not None
        assert first.n_prompt > 0
        wait_for(lambda: (stream.progress(timeout=0) or first).time_ns > first.time_ns)


def test_progress_of_an_engine_without_a_thread_is_that_of_now(model_path: Path) -> None:
    config = EngineConfig(n_ctx=512, max_seqs=1, n_threads=1, warmup=False)
    with BatchEngine(model_path, config, threaded=False) as engine:
        first, second = (engine.submit([5 + i] * 9, GREEDY) for i in range(2))
        before = second.progress()
        assert before is not None
        assert before.queue_position == 2
        engine.step()
        places = [progress.queue_position for s in (first, second) if (progress := s.progress())]
        assert places == [0, 1]
        while engine.step():
            pass
        assert first.progress() is second.progress() is None


def test_a_preempted_request_is_in_the_queue_again(tmp_path: Path) -> None:
    path = tiny_models.write("plain", tmp_path / "tiny.gguf")
    config = EngineConfig(n_ctx=256, max_seqs=1, n_threads=1, warmup=False)
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    with BatchEngine(path, config, threaded=False) as engine:
        first = engine.submit([5] * 20, params, priority=50)
        for _ in range(5):
            engine.step()
        second = engine.submit([6] * 20, params, priority=0)
        engine.step()
        progress = first.progress()
        assert progress is not None
        assert (progress.queue_position, progress.n_preempted) == (1, 1)
        assert (progress.n_prompt, progress.n_computed) == (20, 0)
        assert progress.start_ns > 0
        while engine.step():
            pass
        assert [len(stream.result(0).token_ids) for stream in (first, second)] == [40, 40]
