"""``llamaherd quantize``: convert the weights of a GGUF file to another type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamaherd import _core, models
from llamaherd.validation import require_unicode


def quantize(
    source: Annotated[str, typer.Argument(help="GGUF file or catalogue name.")],
    target: Annotated[Path, typer.Argument(help="File to write.")],
    type: Annotated[
        str, typer.Option("--type", "-t", help=", ".join(_core.quantization_types()))
    ] = "q4_0",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    """Convert the weights of a GGUF file to another type."""
    require_unicode("--type", type)
    path = models.resolve(source)
    n_threads = threads if threads is not None else _core.default_n_threads()
    _core.quantize(path, target, type.lower(), n_threads)
    before, after = path.stat().st_size, target.stat().st_size
    print(f"{target}: {after / 1e6:.1f} MB ({before / 1e6:.1f} MB before)")
