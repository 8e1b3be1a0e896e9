"""Files of model repositories on the Hugging Face hub."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llamaherd._core import ModelLoadError
from llamaherd.models.free_space import is_full
from llamaherd.models.local_file import split_names

HUB_FORM = "hf:ORG/REPO/PATH/FILE.gguf or hf:ORG/REPO@REVISION/PATH/FILE.gguf"

_HUB = re.compile(
    r"hf:(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?/(?P<file>.+\.gguf)", re.IGNORECASE
)
_bars_lock = threading.Lock()
_bars_hidden = 0


@dataclass(frozen=True)
class _HubFile:
    """A file in a model repository on the hub; revision None is the repository's main branch."""

    repo: str
    revision: str | None
    file: str


def find_on_hub(model: str, progress: bool | None) -> Path:
    """Brings what hf:... names, or all parts of it if it is split, from the hub or its cache."""
    wanted = _parse(model)
    folder, slash, name = wanted.file.rpartition("/")
    first, *others = [folder + slash + part for part in split_names(name)]
    with _bars(progress):
        path = _download(replace(wanted, file=first))
        # The hub's cache keeps a file under snapshots/COMMIT/. Parts of another commit, should the
        # branch move meanwhile, would neither fit nor lie beside the first one.
        commit = path.parents[first.count("/")].name
        for other in others:
            _download(replace(wanted, revision=commit, file=other))
    return path


def _parse(model: str) -> _HubFile:
    """Takes hf:... apart."""
    match = _HUB.fullmatch(model)
    steps = match["file"].split("/") if match else []
    if match is None or "\\" in model or not {"", ".", ".."}.isdisjoint(steps):
        raise ModelLoadError(f"malformed model {model!r}: a file on the hub is written {HUB_FORM}")
    return _HubFile(match["repo"], match["revision"], match["file"])


def _download(wanted: _HubFile) -> Path:
    """Brings one file from the hub, if the hub's cache does not have it."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision))
    except Exception as error:  # which HTTP client's errors come depends on the hub's version
        raise ModelLoadError(_advice(wanted, error)) from error


@contextmanager
def _bars(progress: bool | None) -> Iterator[None]:
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


def _advice(wanted: _HubFile, error: Exception) -> str:
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
        return f"malformed repository {repo!r}: {_first_line(error)}; write {HUB_FORM}"
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return f"the hub refuses access to {repo}: check HF_TOKEN ({_first_line(error)})"
    if is_full(error):
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
