"""What clients of a server see when a model's engine has stopped."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest
import tiny_models
from llamaherd import EngineConfig
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.server import ModelPool, ModelSpec, create_app
from llamaherd.server.jobs import model_pool as pool_module

CONFIG = EngineConfig(n_ctx=4096, max_seqs=2, n_threads=1, warmup=False)
LONG = {"prompt": [1, 2, 3], "max_tokens": 4000, "ignore_eos": True}
SHORT = {"prompt": [1, 2, 3], "max_tokens": 2}
CAUSE = "a fault of /somewhere/secret"


def kill(engine: BatchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a fatal error: every call raises, every stream ends with an error."""
    dead = {id(engine)}
    alive = BatchEngine.fatal_error

    def fatal_error(self: BatchEngine) -> str:
        return CAUSE if id(self) in dead else alive.__get__(self)

    monkeypatch.setattr(BatchEngine, "fatal_error", property(fatal_error))
    engine.close()


@pytest.fixture(params=[False, True], ids=["stays dead", "is loaded again"])
def restart(request: pytest.FixtureRequest) -> bool:
    restart: bool = request.param
    return restart


@pytest.fixture
def pool(tmp_path: Path, restart: bool, monkeypatch: pytest.MonkeyPatch) -> ModelPool:
    monkeypatch.setattr(pool_module, "_LOOK_S", 0.05)
    path = tiny_models.write("plain", tmp_path / "m.gguf")
    return ModelPool([ModelSpec("m", str(path), CONFIG)], restart=restart)


async def test_clients_are_told_and_may_come_again(
    pool: ModelPool, restart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(pool)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http,
    ):
        assert (await http.get("/ready")).status_code == 200
        running = asyncio.ensure_future(http.post("/v1/completions", json=LONG))
        engine = pool.loaded["m"].engine
        deadline = time.monotonic() + 60
        while not engine.health().n_running:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        kill(engine, monkeypatch)
        assert (await running).status_code == 503
        answer = await http.post("/v1/completions", json=SHORT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_dead")
        assert int(answer.headers["retry-after"]) >= 1
        assert "secret" not in answer.text
        ready = await http.get("/ready")
        assert ready.status_code == 503
        assert "secret" not in ready.text
        assert (await http.get("/health")).status_code == 200
        if not restart:
            await asyncio.sleep(1.5)
            assert (await http.post("/v1/completions", json=SHORT)).status_code == 503
            return
        while (await http.get("/ready")).status_code != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert (await http.post("/v1/completions", json=SHORT)).status_code == 200
