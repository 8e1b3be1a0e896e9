"""Resolution of model names to GGUF files."""

from __future__ import annotations

import os
from pathlib import Path

from llamaherd._core import ModelLoadError
from llamaherd.models.cache import find_in_cache, find_recorded
from llamaherd.models.catalogue import catalogue
from llamaherd.models.check import require_checked
from llamaherd.models.hub import HUB_FORM, find_in_hub_cache, find_on_hub
from llamaherd.models.local_file import find_local, looks_like_path


def resolve(model: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
    """Return the GGUF file of a model; download it if necessary.

    An existing file of the given name has precedence.

    Args:
      model: One of
        a path of a GGUF file (a path object, or a string that names an existing file, contains a
        path separator or ends with .gguf); of a split GGUF, any of its parts;
        a name in the catalogue, in any case;
        hf:ORG/REPO/PATH/FILE.gguf or hf:ORG/REPO@REVISION/PATH/FILE.gguf, a file on the model hub;
        of a split GGUF, any of its parts: all are downloaded. The hub's settings apply, such as
        HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE. Before its first use, a hub file is
        checked in a child process by check_model(), unless LLAMAHERD_CHECK_DOWNLOADS=0.
      progress: Show downloads on stderr. None: if stderr is a terminal. Progress bars of hub
        downloads always require a terminal.

    Returns:
      The file's path; of a split GGUF, the path of its first part.

    Raises:
      ModelLoadError: The model does not exist or cannot be downloaded; the message states the
        remedy.
      TypeError: model is neither a string nor a path.

    Thread safety:
      Any thread, any process. Concurrent downloads of the same model all succeed.
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
        f"unknown model {model!r}: give the path of a GGUF file, a catalogue name"
        f" ({', '.join(entries)}), or {HUB_FORM}"
    )


def find_present(model: str | os.PathLike[str]) -> Path | None:
    """Return the GGUF file of a model if it is on this machine; download nothing.

    Args:
      model: As for resolve.

    Returns:
      As resolve; None: the file is missing, or the model is unknown.

    Raises:
      ModelLoadError: Parts of a split file are missing, or an hf: name is malformed.

    Thread safety:
      Any thread, any process.
    """
    if not isinstance(model, str) or os.path.isfile(model):
        return find_local(Path(model))
    if model[:3].lower() == "hf:":
        return find_in_hub_cache(model)
    found = {entry.name: entry for entry in catalogue()}.get(model.lower())
    return None if found is None else find_recorded(found)


def pull(model: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
    """Download a model, unless it is present, without loading it.

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
