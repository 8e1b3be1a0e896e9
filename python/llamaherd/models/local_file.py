"""Local GGUF files, and the names of the parts of split files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llamaherd._core import ModelLoadError

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII)


def looks_like_path(model: str) -> bool:
    """Whether a model string has the form of a path."""
    separators = [os.sep, os.altsep or os.sep]
    return model.lower().endswith(".gguf") or any(sep in model for sep in separators)


def find_local(path: Path) -> Path:
    """Check that all parts of a local GGUF exist, and return the first."""
    if os.path.isdir(path):
        raise ModelLoadError(f"{path} is a directory: give the path of a GGUF file in it")
    if not os.path.isfile(path):
        raise ModelLoadError(f"no such file: {path}")
    parts = [path.with_name(name) for name in split_names(path.name)]
    missing = [part for part in parts if not os.path.isfile(part)]
    if missing:
        raise ModelLoadError(
            f"no such file: {missing[0]}: {len(missing)} of the {len(parts)} parts of this split"
            " GGUF are missing; put all of them in one directory"
        )
    return parts[0]


def split_names(name: str) -> list[str]:
    """File names of all parts of the GGUF that a file belongs to; itself if it is not split."""
    match = _SPLIT.fullmatch(name)
    if match is None:
        return [name]
    index, count = int(match["index"]), int(match["count"])
    if not 1 <= index <= count:
        return [name]
    return [f"{match['stem']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
