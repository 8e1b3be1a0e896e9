"""Types: the package, a sample caller, and the stub of the extension module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USER = Path(__file__).with_name("typed_user.py")


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_package_and_sample_caller_are_typed() -> None:
    done = run("-m", "mypy", "--strict", "python", USER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "SamplingParams(max_tokens='many')",
        "SamplingParams(max_token=5)",
        "SamplingParams(5)",
        "EngineConfig(n_ctx=1.5)",
        "LLM('m').generate(5)",
        "BatchEngine('m').submit([1.5])",
        "BatchEngine('m').submit('a', {'max_tokens': 5})",
        "BatchEngine('m').submit('a').result().token_ids.lower()",
    ],
)
def test_type_checker_sees_a_callers_mistake(line: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"from llamaherd import *\n{line}\n")
    done = run("-m", "mypy", "--strict", script)
    assert done.returncode == 1
    assert done.stdout.count("error:") == 1, done.stdout
    assert "script.py:2: error:" in done.stdout


def test_sample_caller_runs(model_path: Path) -> None:
    done = run("-W", "error", USER, model_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_stub_is_what_the_extension_module_has() -> None:
    done = run("tools/make_stub.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_package_says_that_it_is_typed() -> None:
    assert (ROOT / "python" / "llamaherd" / "py.typed").is_file()
