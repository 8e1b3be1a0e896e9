"""Jobs begun without HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tiny_models
from llamaherd import EngineConfig, SamplingParams
from llamaherd.server import ModelPool, ModelSpec, ServerSettings
from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.job_request import JobRequest
from llamaherd.server.observability.metrics import ServerMetrics
from llamaherd.server.observability.spans import Span

PROMPTS = [[1, 2, 3], [4, 5]]
FOUR = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    path = tiny_models.write("plain", tmp_path / "tiny.gguf")
    config = EngineConfig(n_ctx=256, max_seqs=2, n_threads=1, warmup=False)
    pool = ModelPool([ModelSpec("tiny", str(path), config)])
    yield Context(ServerSettings(), pool, ServerMetrics(lambda: pool.loaded))
    await pool.close()


def request_for(model: str) -> JobRequest:
    return JobRequest(model, {"priority": 3, "tenant": "acme"}, "id", n_bytes=10, span=Span())


async def test_deltas_of_a_job_are_its_whole_results(context: Context) -> None:
    async with context.job(request_for(context.model_name(None))) as job:
        assert context.jobs == {job}
        await job.submit(PROMPTS, FOUR)
        results = await job.ends()
    async with context.job(request_for("tiny")) as job:
        await job.submit(PROMPTS, FOUR)
        tokens: dict[int, list[int]] = {0: [], 1: []}
        async for i, delta in job.deltas():
            tokens[i] += delta.token_ids
    assert list(tokens.values()) == [result.token_ids for result in results]
    assert [len(token_ids) for token_ids in tokens.values()] == [4, 4]
    assert not context.jobs


async def test_a_job_that_is_left_ends_its_streams_and_frees_its_model(context: Context) -> None:
    streams = []

    async def fail() -> None:
        async with context.job(request_for("tiny")) as job:
            await job.submit(PROMPTS, SamplingParams(max_tokens=200, ignore_eos=True))
            streams.extend(job.streams)
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        await fail()
    assert not context.jobs
    for stream in streams:
        await stream.await_end()
    assert len(streams) == 2
    async with context.job(request_for("tiny")) as job:
        await job.submit(PROMPTS[:1], FOUR)
        assert len((await job.ends())[0].token_ids) == 4


async def test_a_job_on_an_unknown_model_never_begins(context: Context) -> None:
    with pytest.raises(ApiError, match="model 'other' does not exist"):
        async with context.job(request_for("other")):
            pytest.fail("it has begun")
    assert not context.jobs
