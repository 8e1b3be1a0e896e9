"""A model is tried in a process of its own, whatever it does to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
from llamaherd import ModelLoadError, models


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_models.write("plain", tmp_path / "tiny.gguf")


def info(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamaherd.cli", "info", "--check", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_good_file_passes(tiny: Path) -> None:
    models.check_model(tiny)
    done = info(tiny)
    assert done.returncode == 0
    assert "is usable" in done.stdout


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelLoadError, match="cannot load"):
        models.check_model(path)
    done = info(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot load" in done.stderr


def test_a_child_that_is_late_is_killed(tiny: Path) -> None:
    with pytest.raises(ModelLoadError, match="timeout after"):
        models.check_model(tiny, timeout_s=0.01)


def test_a_child_that_dies_is_an_error_that_says_of_what(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho loading it\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(ModelLoadError, match="crashed with SIGSEGV while loading it"):
        models.check_model(tiny)
