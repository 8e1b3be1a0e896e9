"""``llamaherd pull``: download a model."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def pull(
    model: Annotated[
        str, typer.Argument(help="Catalogue name or hf:org/repo/file.gguf.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Download a model and print its path."""
    from llamaherd import models

    path = models.pull(model)
    # As bytes: a path need not be valid in any encoding.
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")
