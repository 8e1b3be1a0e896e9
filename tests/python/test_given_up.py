"""A request whose client leaves keeps no place before others."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

import pytest
from llamaherd import SamplingParams
from llamaherd.bounded_pool import BoundedPool
from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.jobs.job_request import JobRequest
from llamaherd.server.jobs.thread_pools import LARGE_BYTES, ThreadPools
from llamaherd.server.observability.spans import Span

RULE = SamplingParams(regex="[a-z]+")


class Engine:
    """Stands for a model; its submit() returns when it may."""

    def __init__(self, *, ready: bool) -> None:
        self.ready = ready
        self.submitted: list[Any] = []
        self.begun, self.may_end = Event(), Event()

    def is_ready(self, params: SamplingParams) -> bool:
        return self.ready

    def submit(self, prompt: Any, params: SamplingParams, **options: Any) -> Any:
        self.submitted.append(prompt)
        self.begun.set()
        self.may_end.wait()
        return self

    def cancel(self) -> None:
        pass


def job_of(engine: Engine, pools: ThreadPools, n_bytes: int = 0) -> GenerationJob:
    llm: Any = type("Llm", (), {"engine": engine})
    metrics: Any = type("Metrics", (), {"waits": lambda *_: None})()
    request = JobRequest("model", {"priority": 0, "tenant": ""}, "id", n_bytes, Span())
    return GenerationJob(request, llm, pools, metrics, log_prompts=False)


async def test_who_waits_for_a_thread_is_taken_out_of_the_queue() -> None:
    pools, held, engine = ThreadPools(), Event(), Engine(ready=False)
    pools.constraints = BoundedPool("one", 1, 1)
    pools.constraints.submit(held.wait)
    job = job_of(engine, pools)
    submitting = asyncio.ensure_future(job.submit(["a"], RULE))
    await asyncio.sleep(0.05)
    job.cancel()
    with pytest.raises(ApiError, match="cancelled"):
        await submitting
    held.set()
    await pools.constraints.run(lambda: None)  # what waited before it is done
    assert not engine.submitted


async def test_prompts_behind_the_one_under_way_are_not_submitted() -> None:
    pools, engine = ThreadPools(), Engine(ready=False)
    job = job_of(engine, pools)
    submitting = asyncio.ensure_future(job.submit(["a", "b"], RULE))
    await asyncio.to_thread(engine.begun.wait)
    job.cancel()
    engine.may_end.set()
    with pytest.raises(ApiError, match="cancelled"):
        await submitting
    assert engine.submitted == ["a"]


async def test_who_is_given_up_before_submits_nothing() -> None:
    engine = Engine(ready=True)
    job = job_of(engine, ThreadPools())
    job.cancel()
    with pytest.raises(ApiError, match="cancelled"):
        await job.submit(["a"], RULE)
    assert not engine.submitted


async def test_a_rule_that_is_ready_waits_for_none_that_is_not() -> None:
    pools, held, engine = ThreadPools(), Event(), Engine(ready=True)
    pools.constraints = BoundedPool("one", 1, 1)
    pools.constraints.submit(held.wait)
    engine.may_end.set()
    await job_of(engine, pools).submit(["a"], RULE)
    assert engine.submitted == ["a"]
    held.set()


async def test_a_large_body_waits_for_no_rule() -> None:
    pools, held, engine = ThreadPools(), Event(), Engine(ready=False)
    pools.constraints = BoundedPool("one", 1, 1)
    pools.constraints.submit(held.wait)
    engine.may_end.set()
    await job_of(engine, pools, LARGE_BYTES).submit(["a"], RULE)
    assert engine.submitted == ["a"]
    held.set()
