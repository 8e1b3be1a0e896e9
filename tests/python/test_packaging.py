"""The source distribution holds all it is built from, and builds with no package index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import skip_or_fail

ROOT = Path(__file__).resolve().parents[2]


def run(
    *command: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=3000, check=False
    )


@pytest.fixture(scope="module")
def clean_env() -> dict[str, str]:
    """Without the build options of whoever runs the tests."""
    names = ("SKBUILD_", "CMAKE_ARGS")
    return {key: value for key, value in os.environ.items() if not key.startswith(names)}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str]) -> Path:
    if not (ROOT / ".git").exists():
        skip_or_fail("a source distribution is made from a checkout; this is none")
    folder = tmp_path_factory.mktemp("sdist")
    command = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", str(folder))
    built = run(*command, cwd=ROOT, env=clean_env)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (path,) = folder.glob("llamaherd-*.tar.gz")
    return path


def test_the_sdist_holds_core_and_gpu_sources_and_little_else(sdist: Path) -> None:
    with tarfile.open(sdist) as tar:
        names = {member.name.split("/", 1)[1] for member in tar.getmembers() if member.isfile()}
    for needed in (
        "pyproject.toml",
        "CMakeLists.txt",
        "LICENSE",
        "csrc/engine/engine.cpp",
        "python/llamaherd/_core.pyi",
        "python/llamaherd/models/catalogue.toml",
        "python/llamaherd/server/pages/chat.html",
        "vendor/fetch.py",
        "vendor/llama_cpp.lock.toml",
        "vendor/llama.cpp/LICENSE",
        "vendor/llama.cpp/include/llama.h",
        "vendor/llama.cpp/ggml/src/ggml-cuda/ggml-cuda.cu",
        "vendor/llama.cpp/ggml/src/ggml-vulkan/ggml-vulkan.cpp",
        "vendor/llama.cpp/ggml/src/ggml-metal/ggml-metal-device.m",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("build/", ".ci/", "tests/python/__"))]
    assert not [name for name in names if name.endswith((".gguf", ".so", ".o"))]
    assert sdist.stat().st_size < 10_000_000


@pytest.mark.slow
def test_the_sdist_builds_with_the_index_off(
    sdist: Path, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    # Within the checkout, where a compiler cache can tell that the files are the same.
    folder = ROOT / "build" / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    (source,) = folder.glob("llamaherd-*")
    target = tmp_path / "site"
    command = (sys.executable, "-m", "pip", "install", "--no-index", "--no-build-isolation")
    installed = run(*command, "--no-deps", "-t", str(target), ".", cwd=source, env=clean_env)
    assert installed.returncode == 0, installed.stdout[-3000:] + installed.stderr[-3000:]
    assert "REQUIRED: tuple" in (target / "llamaherd" / "_core_features.py").read_text()
    licences = {path.name for path in target.glob("*.dist-info/licenses/*")}
    assert {"LICENSE", "LICENSE-llama.cpp", "LICENSE-jsonhpp"} <= licences
    code = "import llamaherd, sys; sys.stdout.write(llamaherd.__file__)"
    imported = run(
        sys.executable, "-c", code, cwd=tmp_path, env=clean_env | {"PYTHONPATH": str(target)}
    )
    assert imported.stdout.startswith(str(target)), imported.stderr
