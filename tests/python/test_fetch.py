"""vendor/fetch.py: the pin is checked before anything is unpacked, and errors say what to do."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ["LICENSE", "src/a.cpp", "src/deep/b.cpp", "ggml/src/ggml-cuda/c.cu", "docs/d.md"]


@pytest.fixture(scope="module")
def fetch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "vendor" / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    path = tmp_path / "pkg-1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in [*FILES, "../../evil"]:
            data = name.encode()
            info = tarfile.TarInfo(f"pkg-1/vendor/llama.cpp/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def lock(sdist: Path) -> dict[str, Any]:
    return {
        "source": {
            "package": "pkg",
            "version": "1",
            "sdist_sha256": hashlib.sha256(sdist.read_bytes()).hexdigest(),
            "root": "vendor/llama.cpp",
        },
        "llama_cpp": {"version": "0", "commit": "abcdef0123", "license": "MIT"},
        "groups": {
            "core": {"include": ["LICENSE", "src/"], "exclude": ["src/deep/"]},
            "gpu": {"include": ["ggml/src/ggml-cuda/"]},
        },
    }


def unpacked(dest: Path) -> list[str]:
    return sorted(
        str(p.relative_to(dest)) for p in dest.rglob("*") if p.is_file() and p.name[0] != "."
    )


def test_only_the_wanted_groups_are_unpacked(
    fetch: ModuleType, lock: dict[str, Any], sdist: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "llama.cpp"
    fetch.fetch({"core"}, dest, lock, sdist)
    assert unpacked(dest) == ["LICENSE", "src/a.cpp"]
    assert not (tmp_path.parent / "evil").exists()


def test_a_second_run_does_nothing_and_a_new_group_keeps_the_old(
    fetch: ModuleType, lock: dict[str, Any], sdist: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "llama.cpp"
    fetch.fetch({"core"}, dest, lock, sdist)
    (dest / "src" / "a.cpp").write_text("built on")
    assert "already contains" in fetch.fetch({"core"}, dest, lock, Path("/nowhere"))
    assert (dest / "src" / "a.cpp").read_text() == "built on"
    fetch.fetch({"gpu"}, dest, lock, sdist)
    assert unpacked(dest) == ["LICENSE", "ggml/src/ggml-cuda/c.cu", "src/a.cpp"]


def test_a_moved_pin_renews_the_folder(
    fetch: ModuleType, lock: dict[str, Any], sdist: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "llama.cpp"
    fetch.fetch({"core"}, dest, lock, sdist)
    lock["groups"]["core"]["exclude"] = []
    fetch.fetch({"core"}, dest, lock, sdist)
    assert "src/deep/b.cpp" in unpacked(dest)


def test_a_wrong_hash_unpacks_nothing(
    fetch: ModuleType, lock: dict[str, Any], sdist: Path, tmp_path: Path
) -> None:
    lock["source"]["sdist_sha256"] = "0" * 64
    with pytest.raises(fetch.FetchError, match="not the pinned"):
        fetch.fetch({"core"}, tmp_path / "llama.cpp", lock, sdist)
    assert not (tmp_path / "llama.cpp").exists()


def test_an_unknown_group_names_those_there_are(
    fetch: ModuleType, lock: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(fetch.FetchError, match=r"'nope'.*core, gpu"):
        fetch.fetch({"nope"}, tmp_path / "llama.cpp", lock)


@pytest.mark.parametrize(
    ("stderr", "advice"),
    [
        ("No module named pip", "ensurepip"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "differs from the pin"),
        ("Connection refused", "--sdist FILE"),
    ],
)
def test_a_failed_download_says_what_to_do(
    fetch: ModuleType,
    lock: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stderr: str,
    advice: str,
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(fetch.FetchError, match=advice):
        fetch.fetch({"core"}, tmp_path / "llama.cpp", lock)


def test_the_command_prints_one_line_and_exits_with_1() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "vendor" / "fetch.py"), "nope"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("vendor/fetch.py: unknown group")
    assert result.stderr.count("\n") == 1


def test_upstream_sources_are_not_committed() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "vendor/llama.cpp"], cwd=ROOT, capture_output=True, text=True
    )
    assert tracked.stdout == ""
