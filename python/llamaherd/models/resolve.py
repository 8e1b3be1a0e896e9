"""From what a user names as a model to a GGUF file on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from llamaherd._core import ModelLoadError
from llamaherd.models.cache import find_in_cache
from llamaherd.models.catalogue import catalogue
from llamaherd.models.check import require_checked
from llamaherd.models.hub import HUB_FORM, find_on_hub
from llamaherd.models.local_file import find_local, looks_like_path


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
        them HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE. Before its first use a file from the
        hub is tried in a child process, as check_model() does, unless LLAMAHERD_CHECK_DOWNLOADS=0.
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
        return find_local(Path(model))
    if model[:3].lower() == "hf:":
        path = find_on_hub(model, progress)
        require_checked(path)
        return path
    if looks_like_path(model):
        return find_local(Path(model))
    entries = {entry.name: entry for entry in catalogue()}
    if model.lower() in entries:
        return find_in_cache(entries[model.lower()], progress)
    raise ModelLoadError(
        f"unknown model {model!r}: give the path of a GGUF file, a name in the catalogue"
        f" ({', '.join(entries)}), or {HUB_FORM}"
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
