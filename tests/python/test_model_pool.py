"""Models that come and go."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import tiny_models
from llamaherd import EngineConfig, InvalidRequestError
from llamaherd.server import ModelPool, ModelSpec
from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs import model_pool as pool_module


def pool_of(tmp_path: Path, **options: Any) -> ModelPool:
    config = EngineConfig(n_ctx=256, max_seqs=1, n_threads=1, warmup=False)
    paths = [tiny_models.write("plain", tmp_path / f"{name}.gguf") for name in "abc"]
    return ModelPool([ModelSpec(path.stem, str(path), config) for path in paths], **options)


async def test_models_are_loaded_when_asked_for_and_unloaded_when_idle(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, unload_after_s=0.05)
    unloading = asyncio.ensure_future(pool.unload_idle())
    try:
        assert not pool.loaded
        async with pool.use("b") as llm:
            assert llm.engine.submit([1, 2, 3]).result(timeout=60).token_ids
            assert list(pool.loaded) == ["b"]
            await asyncio.sleep(0.3)
            assert list(pool.loaded) == ["b"]
        deadline = time.monotonic() + 30
        while pool.loaded:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        async with pool.use("b"):
            assert list(pool.loaded) == ["b"]
    finally:
        unloading.cancel()
        await pool.close()


async def test_models_give_way_to_others_but_not_while_in_use(tmp_path: Path) -> None:
    size = tiny_models.write("plain", tmp_path / "a.gguf").stat().st_size / (1 << 20)
    pool = pool_of(tmp_path, max_mib=2.5 * size)
    try:
        async with pool.use("a"):
            async with pool.use("b"):
                with pytest.raises(ApiError, match="does not fit") as refused:
                    async with pool.use("c"):
                        pass
                assert refused.value.status == 503
            async with pool.use("c"):
                assert list(pool.loaded) == ["a", "c"]
        with pytest.raises(ApiError, match="model 'd' does not exist"):
            async with pool.use("d"):
                pass
    finally:
        await pool.close()
    assert not pool.loaded


async def test_one_load_serves_all_who_wait_for_it(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)

    async def use() -> int:
        async with pool.use("a") as llm:
            return id(llm)

    try:
        assert len(set(await asyncio.gather(*[use() for _ in range(8)]))) == 1
    finally:
        await pool.close()


def test_models_must_have_different_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="unique names"):
        ModelPool([ModelSpec("a", "x"), ModelSpec("a", "y")])
    with pytest.raises(InvalidRequestError, match="unique names"):
        ModelPool([])


async def status_of(pool: ModelPool, name: str = "a") -> tuple[int, str | None, float | None, str]:
    try:
        async with pool.use(name):
            return 200, None, None, ""
    except ApiError as error:
        return error.status, error.code, error.retry_after_s, error.message


async def test_a_load_that_fails_is_tried_once_for_all_and_later_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "_FIRST_PAUSE_S", 0.3)
    pool = pool_of(tmp_path)
    path = tmp_path / "a.gguf"
    path.unlink()
    n_tries = 0
    resolve = pool_module.resolve

    def counted(*values: Any, **options: Any) -> Path:
        nonlocal n_tries
        n_tries += 1
        return resolve(*values, **options)

    monkeypatch.setattr(pool_module, "resolve", counted)
    try:
        for status, code, after_s, message in await asyncio.gather(
            *[status_of(pool) for _ in range(50)]
        ):
            assert (status, code) == (503, "model_load_failed")
            assert after_s
            assert str(tmp_path) not in message
        assert n_tries == 1
        assert pool.troubles == {"a": "it cannot be loaded"}
        assert str(path) in caplog.text
        assert (await status_of(pool, "b"))[0] == 200
        tiny_models.write("plain", path)
        deadline = time.monotonic() + 60
        while (await status_of(pool))[0] != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert n_tries == 3
        assert not pool.troubles
    finally:
        await pool.close()


async def test_failures_in_a_row_are_tried_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1e6
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: now))
    backoff = pool_module._Backoff()
    assert backoff.left_s == 0
    pauses = []
    for _ in range(9):
        backoff.failed()
        pauses.append(backoff.left_s)
        now += backoff.left_s
        assert backoff.left_s == 0
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    now += 601
    backoff.failed()
    assert backoff.left_s == 1


class FakeLLM:
    """A model whose engine can be stopped."""

    made: ClassVar[list[FakeLLM]] = []
    generates = True
    max_len = 64

    def __init__(self, *_: Any, **__: Any) -> None:
        self.engine = SimpleNamespace(fatal_error="")
        self.closed = False
        FakeLLM.made.append(self)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake_models(monkeypatch: pytest.MonkeyPatch) -> list[FakeLLM]:
    monkeypatch.setattr(pool_module, "_FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr(pool_module, "_LOOK_S", 0.02)
    monkeypatch.setattr(pool_module, "LLM", FakeLLM)
    FakeLLM.made = []
    return FakeLLM.made


async def test_a_model_whose_engine_has_stopped_is_not_used(
    tmp_path: Path, fake_models: list[FakeLLM]
) -> None:
    pool = pool_of(tmp_path)
    restarting = asyncio.ensure_future(pool.restart_dead())
    await pool.preload("a")
    assert (await status_of(pool))[0] == 200
    fake_models[0].engine.fatal_error = f"a fault of {tmp_path}"
    for _ in range(3):
        status, code, after_s, message = await status_of(pool)
        assert (status, code) == (503, "engine_dead")
        assert after_s
        assert str(tmp_path) not in message
        await asyncio.sleep(0.2)
    assert pool.troubles == {"a": "its engine has stopped"}
    assert len(fake_models) == 1
    restarting.cancel()
    await pool.close()


async def test_a_model_whose_engine_has_stopped_is_loaded_again(
    tmp_path: Path, fake_models: list[FakeLLM]
) -> None:
    pool = pool_of(tmp_path, restart=True)
    restarting = asyncio.ensure_future(pool.restart_dead())
    await pool.preload("a")
    for n in (1, 2, 3):
        fake_models[-1].engine.fatal_error = "a fault"
        assert (await status_of(pool))[:2] == (503, "engine_dead")
        assert pool.troubles == {"a": "its engine has stopped"}
        deadline = time.monotonic() + 60
        while pool.troubles:  # nobody has to ask for it
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert len(fake_models) == n + 1
        assert fake_models[-2].closed
        assert (await status_of(pool))[0] == 200
    restarting.cancel()
    await pool.close()
