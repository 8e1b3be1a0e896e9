"""Builds the C++ tests, which need no model, and runs them: those of the core, which need no
llama.cpp, and those of the CPU kernels, which need ggml."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import skip_or_fail

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)


def build(name: str, target: str, *, llama: str) -> Path:
    """As the package is built, so that a compiler cache knows its files."""
    folder = ROOT / "build" / name
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        skip_or_fail("cmake and ninja are not installed (tests/requirements.txt brings them)")
    configured = run(
        *("cmake", "-S", ".", "-B", str(folder), "-G", "Ninja"),
        *("-DLLAMAHERD_BUILD_TESTS=ON", "-DLLAMAHERD_BUILD_PYTHON=OFF"),
        *("-DCMAKE_BUILD_TYPE=Release", f"-DLLAMAHERD_BUILD_LLAMA={llama}"),
    )
    output = configured.stdout + configured.stderr
    if configured.returncode != 0 and "GTest" in output:
        skip_or_fail("GoogleTest is not installed (Debian: libgtest-dev)")
    assert configured.returncode == 0, output
    built = run("cmake", "--build", str(folder), "--target", target)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "tests" / "cpp" / target


@pytest.fixture(scope="module")
def kernel_tests() -> Path:
    return build("kernels", "kernel_tests", llama="ON")


def assert_passes(tests: Path, **environment: str) -> None:
    result = run(str(tests), "--gtest_brief=1", env=os.environ | environment)
    print(result.stdout.splitlines()[-1])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PASSED" in result.stdout


def test_the_cpp_tests_pass() -> None:
    assert_passes(build("cpp", "herd_tests", llama="OFF"))


@pytest.mark.slow
@pytest.mark.parametrize("most", ["amx_bf16", "amx_int8", "avx512_vnni", "avx_vnni", "avx2"])
def test_the_kernel_tests_pass(kernel_tests: Path, most: str) -> None:
    assert_passes(kernel_tests, LLAMAHERD_CPU_ISA=most)
