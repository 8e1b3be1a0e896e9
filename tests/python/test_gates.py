"""The gates of `bench/gates.py`: what is counted in the engine's core is what it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from conftest import skip_or_fail

pytestmark = pytest.mark.slow

GATES = Path(__file__).resolve().parents[2] / "bench" / "gates.py"


@pytest.fixture(scope="module")
def gates() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gates", GATES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.build()
    except module.CannotRun as error:
        skip_or_fail(str(error))
    return module


@pytest.mark.parametrize("name", ["counters", "allocations", "instructions"])
def test_what_is_counted_is_what_it_was(gates: ModuleType, name: str) -> None:
    try:
        wrong = gates.CHECKS[name]()
    except gates.CannotRun as error:
        skip_or_fail(str(error))
    except gates.OtherToolchain as error:
        pytest.skip(str(error))  # also where nothing else may be skipped
    assert wrong == []
