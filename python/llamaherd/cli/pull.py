"""``llamaherd pull``: bring a model to this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    model: Annotated[
        str, typer.Argument(help="Catalogue name or hf:org/repo/file.gguf.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Bring a model to this machine and print its path."""
    from llamaherd import models

    print(models.pull(model))
