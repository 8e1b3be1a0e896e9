"""Builds the C++ tests, which need neither llama.cpp nor a model, and runs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import skip_or_fail

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cpp"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="module")
def test_binary() -> Path:
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        skip_or_fail("cmake and ninja are not installed (the test extra brings them)")
    configured = run(
        *("cmake", "-S", ".", "-B", str(BUILD), "-G", "Ninja"),
        *("-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DLLAMAHERD_BUILD_TESTS=ON"),
        *("-DLLAMAHERD_BUILD_PYTHON=OFF", "-DLLAMAHERD_BUILD_LLAMA=OFF"),
    )
    output = configured.stdout + configured.stderr
    if configured.returncode != 0 and "GTest" in output:
        skip_or_fail("GoogleTest is not installed (Debian: libgtest-dev)")
    assert configured.returncode == 0, output
    built = run("cmake", "--build", str(BUILD))
    assert built.returncode == 0, built.stdout + built.stderr
    return BUILD / "tests" / "cpp" / "herd_tests"


def test_the_cpp_tests_pass(test_binary: Path) -> None:
    result = run(str(test_binary), "--gtest_brief=1")
    print(result.stdout.splitlines()[-1])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PASSED" in result.stdout
