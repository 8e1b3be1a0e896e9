"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from llamaherd.models import DEFAULT_MODEL
from llamaherd.params import EngineConfig

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="GGUF file, catalogue name or hf:org/repo/file.gguf."),
]
Preset = Annotated[
    str, typer.Option(help="low_latency, balanced or high_throughput.", rich_help_panel="Engine")
]
NCtx = Annotated[
    int | None, typer.Option(help="KV cells shared by all requests.", rich_help_panel="Engine")
]
MaxSeqs = Annotated[
    int | None, typer.Option(help="Requests that run at once.", rich_help_panel="Engine")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", rich_help_panel="Engine")]
GpuLayers = Annotated[
    int, typer.Option(help="Layers on GPUs; -1: all that fit.", rich_help_panel="Engine")
]
Device = Annotated[
    list[str] | None,
    typer.Option(help="Device to use, as info lists it; repeatable.", rich_help_panel="Engine"),
]
KvType = Annotated[str, typer.Option(help="Type of the KV cache.", rich_help_panel="Engine")]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic", help="Bit-exact whatever runs beside; slow.", rich_help_panel="Engine"
    ),
]

MaxTokens = Annotated[int | None, typer.Option(help="Output tokens at most.")]
Temperature = Annotated[float, typer.Option(help="0: greedy.")]

default_model = DEFAULT_MODEL


@dataclass
class EngineOptions:
    """The engine options of one command line."""

    preset: str = "balanced"
    n_ctx: int | None = None
    max_seqs: int | None = None
    threads: int | None = None
    n_gpu_layers: int = -1
    device: list[str] | None = None
    kv_type: str = "f16"
    deterministic: bool = False

    def to_config(self) -> EngineConfig:
        return EngineConfig(
            preset=self.preset,
            n_ctx=self.n_ctx,
            max_seqs=self.max_seqs,
            n_threads=self.threads,
            n_gpu_layers=self.n_gpu_layers,
            devices=self.device or (),
            kv_type=self.kv_type,
            deterministic=self.deterministic,
        )


def given(**options: Any) -> dict[str, Any]:
    """The options that were given on the command line, without those left at None."""
    return {name: value for name, value in options.items() if value is not None}
