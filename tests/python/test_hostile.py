"""A short replay of attacks; `bench/hostile.py` by itself is the whole one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HOSTILE = Path(__file__).resolve().parents[2] / "bench" / "hostile.py"
ATTACKS = [
    "400 prompts, 128 outputs each",
    "60,000 continuations scored",
    "a lone surrogate in every field",
    "50,000 template variables",
    "20,000 nested groups",
    "reversed repetition",
    "forty doubling rules",
    "60,000 lists in a call",
    "special tokens, 4 MB: completion",
    "half-closed requests",
    "clients that reset",
    "host evil.example",
    "another site's page: a file",
    "a storm of cancelled requests",
]


def test_attacks_harm_nobody(model_path: Path) -> None:
    # The bars of time are for a machine that does nothing else.
    options = ["--model", str(model_path), "--seconds", "1", "--slack", "10", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, str(HOSTILE), *options, "--only", *ATTACKS],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 exceeded a limit" in done.stdout
