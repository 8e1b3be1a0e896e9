"""Properties of models from the headers of their files."""

from __future__ import annotations

import os
from pathlib import Path

from llamaherd._core import GgufSummary, read_summary
from llamaherd.models.local_file import split_names


def summarize(path: str | os.PathLike[str]) -> list[GgufSummary]:
    """Read the headers of a model's files, without weights.

    Args:
      path: A GGUF file; of a split one, the first part.

    Returns:
      One summary per file, the first part's first.

    Raises:
      ModelLoadError: A file is missing, or its header is malformed.

    Thread safety:
      Any thread.
    """
    path = Path(path)
    return [read_summary(path.with_name(name)) for name in split_names(path.name)]
