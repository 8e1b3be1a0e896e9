"""llama.cpp's log goes through Python's logging, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys
if sys.argv[2] != "none":
    logging.basicConfig(level=sys.argv[2], format="%(levelname)s %(name)s %(message)s")
from llamaherd import BatchEngine, EngineConfig, ModelLoadError, SamplingParams
try:
    with BatchEngine(sys.argv[1], EngineConfig(n_ctx=256, max_seqs=1, warmup=False)) as engine:
        engine.submit("The", SamplingParams(max_tokens=1)).result()
except ModelLoadError:
    print("refused")
"""


def run(model: Path, level: str) -> tuple[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), level],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout, done.stderr.splitlines()


@pytest.fixture
def broken(model_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "broken.gguf"
    with model_path.open("rb") as model:
        path.write_bytes(model.read(1 << 20))
    return path


def test_loading_is_silent_by_default(model_path: Path, broken: Path) -> None:
    assert run(model_path, "none") == ("", [])
    assert run(broken, "none") == ("refused\n", [])


def test_log_lines_reach_the_applications_handler(model_path: Path) -> None:
    _, lines = run(model_path, "INFO")
    ours = [line for line in lines if line.startswith("INFO llamaherd.llama_cpp ")]
    assert len(ours) > 10
    assert any("SmolLM2" in line or "llama_model_loader" in line for line in ours)
    assert not [line for line in lines if line.startswith("DEBUG")]


def test_levels_are_those_of_the_lines(model_path: Path, broken: Path) -> None:
    _, lines = run(model_path, "ERROR")
    assert lines == []
    _, lines = run(broken, "ERROR")
    assert lines
    assert all(line.startswith("ERROR llamaherd.llama_cpp ") for line in lines)
    _, lines = run(model_path, "DEBUG")
    assert any(line.startswith("DEBUG llamaherd.llama_cpp ") for line in lines)
