"""``llamaherd pull``: download a model."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    model: Annotated[
        str, typer.Argument(help="Catalogue name or hf:org/repo/file.gguf.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Download a model and print its path."""
    from llamaherd import models

    print(models.pull(model))
