"""Fixtures of the Python tests. tests/README.md says what is tested where."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from llamaherd import BatchEngine, EngineConfig, ModelLoadError
from llamaherd.models import DEFAULT_MODEL, resolve

fuzzing.register_profiles()
# A shell ignores it for jobs in the background, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_requires_all = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", action="store_true", help="slow tests too; a test that cannot run here fails"
    )


def pytest_configure(config: pytest.Config) -> None:
    global _requires_all
    _requires_all = config.getoption("--all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects slow tests, unless all are asked for or files are named."""
    is_whole_suite = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if _requires_all or not is_whole_suite:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


def skip_or_fail(reason: str) -> None:
    """Skips a test that cannot run here; with --all it fails."""
    if _requires_all:
        pytest.fail(f"--all requires every test to run, but {reason}")
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
