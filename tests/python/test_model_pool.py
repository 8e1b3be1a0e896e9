"""Models that come and go."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from llamaherd import EngineConfig, InvalidRequestError
from llamaherd.server import ModelPool, ModelSpec
from llamaherd.server.errors import ApiError


def pool_of(tmp_path: Path, **options: Any) -> ModelPool:
    config = EngineConfig(n_ctx=256, max_seqs=1, n_threads=1, warmup=False)
    paths = [tiny_models.write("plain", tmp_path / f"{name}.gguf") for name in "abc"]
    return ModelPool([ModelSpec(path.stem, str(path), config) for path in paths], **options)


async def test_models_are_loaded_when_asked_for_and_unloaded_when_idle(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, idle_ttl_s=0.05)
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
        with pytest.raises(ApiError, match="no model 'd'"):
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
    with pytest.raises(InvalidRequestError, match="different names"):
        ModelPool([ModelSpec("a", "x"), ModelSpec("a", "y")])
    with pytest.raises(InvalidRequestError, match="different names"):
        ModelPool([])
