"""Options shared by several commands."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from llamaherd.config.params import EngineConfig
from llamaherd.models import DEFAULT_MODEL

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="GGUF file, catalogue name or hf:org/repo/file.gguf."),
]
MaxTokens = Annotated[int | None, typer.Option(help="Maximum output tokens.")]
Temperature = Annotated[float, typer.Option(help="0: greedy.")]

default_model = DEFAULT_MODEL


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Engine")


Threads = Annotated[int | None, _option("CPU threads.", "--threads")]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Engine options of a command line: `config`, and fields of EngineConfig that override that
    file; None: not given."""

    config: Annotated[
        Path | None,
        _option(
            "TOML file of engine options, such as tune writes; overridden by the options below."
        ),
    ] = None
    preset: Annotated[str | None, _option("low_latency, balanced or high_throughput.")] = None
    n_ctx: Annotated[int | None, _option("KV cells shared by all requests.")] = None
    max_seqs: Annotated[int | None, _option("Maximum concurrent requests.")] = None
    n_threads: Threads = None
    n_gpu_layers: Annotated[int | None, _option("Layers offloaded to GPUs; -1: all that fit.")] = (
        None
    )
    devices: Annotated[
        list[str] | None, _option("Device to use (see info); repeatable.", "--device")
    ] = None
    kv_type: Annotated[str | None, _option("Type of the KV cache.")] = None
    cpu_kernels: Annotated[str | None, _option("auto, stock or reference.")] = None
    deterministic: Annotated[
        bool | None, _option("Output independent of the rest of the batch, bit for bit; slow.")
    ] = None

    def to_config(self, *, preset: str = "balanced") -> EngineConfig:
        """The file's options, overridden by the given ones; `preset` is the default without a
        file."""
        base = EngineConfig(preset=preset)
        if self.config is not None:
            base = EngineConfig.from_file(self.config)
        return replace(base, **given(**{**vars(self), "config": None}))


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option to the command for each field of EngineOptions, its parameter `engine`."""
    # No defaults, so that options not given do not override the file.
    group = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in get_type_hints(EngineOptions, include_extras=True).items()
    ]

    @functools.wraps(command)
    def expanded(**arguments: Any) -> None:
        engine = EngineOptions(**{option.name: arguments.pop(option.name) for option in group})
        command(**arguments, engine=engine)

    parameters = inspect.signature(command, eval_str=True).parameters.values()
    own = [parameter for parameter in parameters if parameter.annotation is not EngineOptions]
    expanded.__signature__ = inspect.Signature([*own, *group])  # type: ignore[attr-defined]
    return expanded


def needs_extra(error: ModuleNotFoundError, extra: str) -> NoReturn:
    """Exit with the name of the extra that provides the missing dependency."""
    print(
        f"llamaherd: {error.name} is not installed: pip install 'llamaherd[{extra}]'",
        file=sys.stderr,
    )
    raise typer.Exit(1) from None


def given(**options: Any) -> dict[str, Any]:
    """The options given on the command line, without None values."""
    return {name: value for name, value in options.items() if value is not None}
