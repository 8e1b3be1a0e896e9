"""``llamaherd info``: build, devices and model metadata."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llamaherd import _core, models
from llamaherd.cli import options
from llamaherd.config.params import EngineConfig

_BAR_WIDTH = 28
_SAMPLING_PREFIX = "general.sampling."


@options.with_engine_options
def info(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also show metadata of this model.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Measure the cost of decode calls of the model (or the default one) again, store "
            "and show it.",
        ),
    ] = False,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="MODEL",
            help="Only load this model and generate text, in a child process with time and memory "
            "limits, and report whether it is usable: for files of unknown origin.",
        ),
    ] = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Show versions, devices, CPU features and metadata of a model."""
    if check is not None:
        path = models.resolve(check)
        models.check_model(path)
        print(f"{path} is usable: it was loaded and generated text in a child process")
        return
    if not calibrate and engine != options.EngineOptions():
        raise typer.BadParameter("engine options require --calibrate")
    config = engine.to_config()
    console = Console(highlight=False)
    console.print(f"llamaherd   {_core.__version__}")
    console.print(f"llama.cpp   {_core.llama_cpp_version} (commit {_core.llama_cpp_commit})")
    backends = sorted({device.backend for device in _core.list_devices()})
    console.print(f"backends    {', '.join(backends)}")
    features = [name for name, value in _core.cpu_features() if value == "1"]
    console.print(f"CPU         {' '.join(features)}")
    console.print(f"CPU kernels {_core.cpu_kernels(config._to_core())}")
    console.print(f"threads     {_core.default_n_threads()} by default")
    console.print(f"models in   {models.cache_dir()}")
    console.print(_devices_table())
    if model is not None:
        _print_model(console, model)
    if calibrate:
        _print_costs(console, model or models.DEFAULT_MODEL, config)


def _devices_table() -> Table:
    table = Table("device", "kind", "backend", "memory free / total", "description")
    for device in _core.list_devices():
        memory = f"{device.memory_free / 2**30:.1f} / {device.memory_total / 2**30:.1f} GiB"
        table.add_row(device.name, device.kind, device.backend, memory, device.description)
    return table


def _print_model(console: Console, name: str) -> None:
    from llamaherd import BatchEngine

    with BatchEngine(name, EngineConfig(n_ctx=256, max_seqs=1, warmup=False)) as engine:
        facts = engine.model_info()
        path = engine.path
    metadata: dict[str, str] = facts["metadata"]
    table = Table("model", str(path))
    for key in ("description", "n_params", "n_bytes", "n_vocab", "n_layer", "n_embd"):
        table.add_row(key, _text(facts[key]))
    table.add_row("trained context", _text(facts["n_ctx_train"]))
    table.add_row("memory", facts["memory_kind"])
    table.add_row("prefix sharing", facts["prefix_sharing"])
    table.add_row("chat template", "yes" if facts["has_chat_template"] else "no")
    for key in ("general.name", "general.architecture", "general.license"):
        if key in metadata:
            table.add_row(key.removeprefix("general."), metadata[key])
    recommended = {
        key.removeprefix(_SAMPLING_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(_SAMPLING_PREFIX)
    }
    sampling = ", ".join(f"{key} {value}" for key, value in recommended.items())
    table.add_row("recommended sampling", sampling or "none in the file")
    console.print(table)


def _print_costs(console: Console, name: str, config: EngineConfig) -> None:
    from llamaherd import BatchEngine
    from llamaherd.engine import calibration_cache

    config = replace(config, warmup=True)
    calibration_cache.forget(models.resolve(name), config)
    with BatchEngine(name, config) as engine:
        costs = engine.calibration
    assert costs is not None
    best = max(n_rows / ns for n_rows, ns in costs.points)
    table = Table("rows in a call", "ms", "ms / row", "rows / s", "")
    for n_rows, ns in costs.points:
        bar = "█" * max(1, round(_BAR_WIDTH * n_rows / ns / best))
        table.add_row(
            str(n_rows),
            f"{ns / 1e6:.2f}",
            f"{ns / 1e6 / n_rows:.2f}",
            f"{n_rows / ns * 1e9:.0f}",
            bar,
        )
    console.print(table)
    for kind, (attended_ns, scanned_ns) in (("below", costs.few), ("from", costs.many)):
        console.print(
            f"attention, calls {kind} 64 rows: {attended_ns:.0f} ns per row and attended cell, "
            f"{scanned_ns:.0f} per masked cell"
        )
    console.print(f"repeated measurements differ by a factor of {costs.noise:.2f}")
    console.print(f"KV data from host memory: {costs.load_token_ns / 1e3:.1f} us per token")


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
