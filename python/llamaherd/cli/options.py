"""Options that several commands share."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from llamaherd.config.params import EngineConfig
from llamaherd.models import DEFAULT_MODEL

_PANEL = "Engine"

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="GGUF file, catalogue name or hf:org/repo/file.gguf."),
]
# Engine options have no defaults here, so that those of a file can win over what was not given.
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file of engine options, as tune writes it; the options below win over it.",
        rich_help_panel=_PANEL,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(help="low_latency, balanced or high_throughput.", rich_help_panel=_PANEL),
]
NCtx = Annotated[
    int | None, typer.Option(help="KV cells shared by all requests.", rich_help_panel=_PANEL)
]
MaxSeqs = Annotated[
    int | None, typer.Option(help="Requests that run at once.", rich_help_panel=_PANEL)
]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", rich_help_panel=_PANEL)]
GpuLayers = Annotated[
    int | None,
    typer.Option(
        help="Layers on GPUs; -1: all that fit.",
        rich_help_panel=_PANEL,
    ),
]
Device = Annotated[
    list[str] | None,
    typer.Option(help="Device to use, as info lists it; repeatable.", rich_help_panel=_PANEL),
]
KvType = Annotated[
    str | None,
    typer.Option(help="Type of the KV cache.", rich_help_panel=_PANEL),
]
CpuKernels = Annotated[
    str | None,
    typer.Option(help="auto, stock or reference.", rich_help_panel=_PANEL),
]
Deterministic = Annotated[
    bool | None,
    typer.Option(
        "--deterministic/--no-deterministic",
        help="Bit-exact whatever runs beside; slow.",
        rich_help_panel=_PANEL,
    ),
]

MaxTokens = Annotated[int | None, typer.Option(help="Output tokens at most.")]
Temperature = Annotated[float, typer.Option(help="0: greedy.")]

default_model = DEFAULT_MODEL


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The engine options of one command line; None: not given."""

    config: Path | None = None
    preset: str | None = None
    n_ctx: int | None = None
    max_seqs: int | None = None
    threads: int | None = None
    n_gpu_layers: int | None = None
    device: list[str] | None = None
    kv_type: str | None = None
    cpu_kernels: str | None = None
    deterministic: bool | None = None

    def to_config(self, *, preset: str = "balanced") -> EngineConfig:
        """The file's options with those given put over them; `preset`: for when there is no file
        and none is given."""
        base = EngineConfig(preset=preset)
        if self.config is not None:
            base = EngineConfig.from_file(self.config)
        options = given(
            preset=self.preset,
            n_ctx=self.n_ctx,
            max_seqs=self.max_seqs,
            n_threads=self.threads,
            n_gpu_layers=self.n_gpu_layers,
            devices=self.device or None,
            kv_type=self.kv_type,
            cpu_kernels=self.cpu_kernels,
            deterministic=self.deterministic,
        )
        return replace(base, **options)


def needs_extra(error: ModuleNotFoundError, extra: str) -> NoReturn:
    """Ends the command: what it needs beyond the package's own dependencies is not installed."""
    print(f"llamaherd: {error.name} is missing: pip install 'llamaherd[{extra}]'", file=sys.stderr)
    raise typer.Exit(1) from None


def given(**options: Any) -> dict[str, Any]:
    """The options that were given on the command line, without those left at None."""
    return {name: value for name, value in options.items() if value is not None}
