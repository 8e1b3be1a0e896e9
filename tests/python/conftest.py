"""Fixtures of the Python tests. tests/README.md says what is tested where."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from llamaherd import BatchEngine, EngineConfig, ModelLoadError
from llamaherd.models import DEFAULT_MODEL, resolve

fuzzing.register_profiles()


def skip_or_fail(reason: str) -> None:
    """Skip a test that cannot run here, unless nothing may be skipped (as in CI)."""
    if os.environ.get("LLAMAHERD_REQUIRE_ALL") == "1":
        pytest.fail(f"LLAMAHERD_REQUIRE_ALL=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The default model, fetched once."""
    try:
        return resolve(DEFAULT_MODEL, progress=False)
    except ModelLoadError as error:
        skip_or_fail(f"the default model cannot be had: {error}")
        raise


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[BatchEngine]:
    """An engine of the default model that the tests of one file share."""
    with BatchEngine(model_path, EngineConfig(n_ctx=4096)) as engine:
        yield engine


@pytest.fixture(params=["asyncio", "uvloop"])
def run_on_loop(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Runs a coroutine on either event loop."""
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop")
    run: Callable[[Any], None] = uvloop.run
    return run
