"""Files from model repositories of the Hugging Face hub."""

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
    """A file in a hub repository. Revision None is the main branch."""

    repo: str
    revision: str | None
    file: str


def find_on_hub(model: str, progress: bool | None) -> Path:
    """Download an hf: model, with all parts of a split file, unless cached."""
    wanted = _parse(model)
    folder, slash, name = wanted.file.rpartition("/")
    first, *others = [folder + slash + part for part in split_names(name)]
    with _bars(progress):
        path = _download(replace(wanted, file=first))
        # The hub's cache stores files by commit. If the branch moves during the download, parts of
        # another commit would not match, and would be in another folder.
        commit = path.parents[first.count("/")].name
        for other in others:
            _download(replace(wanted, revision=commit, file=other))
    return path


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, such as bytes of a command line that are not UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def find_in_hub_cache(model: str) -> Path | None:
    """The path of an hf: model in the hub's cache, of a split file of its first part."""
    from huggingface_hub import try_to_load_from_cache

    wanted = _parse(model)
    folder, slash, name = wanted.file.rpartition("/")
    file = folder + slash + split_names(name)[0]
    found = try_to_load_from_cache(wanted.repo, file, revision=wanted.revision)
    return Path(found) if isinstance(found, str) else None


def _parse(model: str) -> _HubFile:
    """Parse an hf: name."""
    match = _HUB.fullmatch(model)
    steps = match["file"].split("/") if match else []
    if (
        match is None
        or not _is_unicode(model)
        or "\\" in model
        or not {"", ".", ".."}.isdisjoint(steps)
    ):
        raise ModelLoadError(f"malformed model {model!r}: write {HUB_FORM}")
    return _HubFile(match["repo"], match["revision"], match["file"])


def _download(wanted: _HubFile) -> Path:
    """Download one file from the hub, unless it is in the hub's cache."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision))
    except Exception as error:  # error types of the HTTP client depend on the hub's version
        raise ModelLoadError(_advice(wanted, error)) from error


@contextmanager
def _bars(progress: bool | None) -> Iterator[None]:
    """Hide the hub's progress bars if unwanted; without a terminal it shows none.

    The hub has one switch per process: the last of concurrent callers restores it.
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
    """Error message, with remedy, for an error of the hub's library."""
    from huggingface_hub import constants, errors

    repo, file = wanted.repo, wanted.file
    revision = wanted.revision or "main"
    # Gated derives from repository-not-found, not-cached from entry-not-found.
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: request access on its hub page, then set HF_TOKEN to a token of an"
            " account with access"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision}: use a branch, a tag or a full commit hash"
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
        return f"{repo} has no file {file} at {revision}: check the file list on the hub"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"repository {repo} does not exist on the hub or is private: check the name, or set"
            " HF_TOKEN for a private repository"
        )
    if isinstance(error, errors.HFValidationError):
        return f"malformed repository {repo!r}: {_first_line(error)}; write {HUB_FORM}"
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return f"the hub denied access to {repo}: check HF_TOKEN ({_first_line(error)})"
    if is_full(error):
        return (
            f"no space left for {repo}/{file}: free some, or set HF_HOME to a directory on another"
            " disk"
        )
    return (
        f"the download of {repo}/{file} failed: {_first_line(error)}; retry, or give the path"
        " of a local file"
    )


def _first_line(error: BaseException) -> str:
    """First line of the error message, or the error's type name if it is empty."""
    return next((line for line in str(error).splitlines() if line), type(error).__name__)
