"""A short soak of the server; `bench/soak.py` by itself is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOAK = Path(__file__).resolve().parents[2] / "bench" / "soak.py"


def test_many_clients_lose_nothing(model_path: Path) -> None:
    options = ["--model", str(model_path), "--seconds", "30", "--settle", "10"]
    options += ["--growth", "1.2"]  # it is still warming up
    done = subprocess.run(
        [sys.executable, str(SOAK), *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
