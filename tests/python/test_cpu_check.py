"""The import on a CPU that lacks instructions of the build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llamaherd.cpu_check import missing

SENTENCE = (
    "needs CPU instructions that this machine lacks (avx1024, no_such_set): install it from "
    "source on this machine, or build it with -C cmake.define.GGML_NATIVE=OFF"
)
needs_flags = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="only Linux on x86-64"
)


@pytest.fixture
def other_build(tmp_path: Path) -> dict[str, str]:
    """The environment of a child whose build needs what no CPU has.

    The extension module is replaced by one that must not be loaded.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\n"
        "features = types.ModuleType('llamaherd._core_features')\n"
        "features.REQUIRED = ('sse2', 'avx1024', 'no_such_set')\n"
        "sys.modules[features.__name__] = features\n"
        "class Core:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'llamaherd._core': raise SystemExit('it is loaded')\n"
        "sys.meta_path.insert(0, Core())\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@needs_flags
@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "llamaherd.cli", "info"),
        ("-c", "from llamaherd.cli import main; main()"),
        ("-c", "import llamaherd"),
        ("-m", "llamaherd.trial_load"),
    ],
)
def test_a_missing_instruction_set_is_a_sentence(
    other_build: dict[str, str], arguments: tuple[str, ...]
) -> None:
    done = run(other_build, *arguments)
    assert done.returncode == 1
    assert SENTENCE in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@needs_flags
def test_it_is_an_import_error_that_can_be_caught(other_build: dict[str, str]) -> None:
    code = """
import sys
try:
    import llamaherd
except ImportError as error:
    print(error)
raise ValueError("another one")
"""
    done = run(other_build, "-c", code)
    assert SENTENCE in done.stdout
    assert "Traceback" in done.stderr
    assert "ValueError: another one" in done.stderr


def test_features_that_the_kernel_does_not_list_are_not_missed() -> None:
    required = ("avx2", "avx512_bf16", "avx_vnni")
    assert missing(required, ("sse2",), (5, 2)) == ["avx2"]
    assert missing(required, ("avx2",), (5, 4)) == ["avx512_bf16"]
    assert missing(required, ("avx2",), (6, 1)) == ["avx512_bf16", "avx_vnni"]
    assert missing(required, required, (6, 1)) == []


def test_this_build_runs_here() -> None:
    done = run(dict(os.environ), "-c", "import llamaherd")
    assert (done.returncode, done.stderr) == (0, "")
