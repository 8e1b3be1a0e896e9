"""``llamaherd tune``: find engine options for a workload on this machine."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from llamaherd import __version__
from llamaherd.cli import options
from llamaherd.config.params import EngineConfig
from llamaherd.tuning.replay import Replayer
from llamaherd.tuning.search_space import (
    OBJECTIVE_OF,
    OBJECTIVES,
    EffectiveConfig,
    Objective,
    SearchBounds,
)
from llamaherd.tuning.tuner import Trial, Tuner
from llamaherd.tuning.workload import BUILT_IN, Workload


@options.with_engine_options
def tune(
    model: Annotated[
        str, typer.Argument(help="GGUF file, catalogue name or hf:org/repo/file.gguf.")
    ] = options.default_model,
    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            "-w",
            help=f"{', '.join(BUILT_IN)}, or a file of generate --record.",
        ),
    ] = "mixed",
    n_requests: Annotated[
        int | None,
        typer.Option("--requests", min=1, help="Use this many requests of the workload."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time limit, loading included.")] = 5.0,
    objective: Annotated[
        str | None,
        typer.Option(
            help="throughput, latency or balanced. Default: latency for workload interactive, "
            "throughput for workload throughput, otherwise balanced."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="TOML file for the best options, to be used with --config."
        ),
    ] = Path("tuned.toml"),
    *,
    engine: options.EngineOptions,
) -> None:
    """Measure a workload with many engine options and write the best ones to a file.

    The search starts with the given options and changes one at a time while that helps. The output
    file always has the best options so far; Ctrl-C stops the search. Two engines are loaded at a
    time.
    """
    chosen = _objective(objective, workload)
    if not minutes > 0:
        raise typer.BadParameter(f"must be > 0; got {minutes}", param_hint="--minutes")
    _require_writable(output)
    requests = _workload(workload, n_requests)
    start = engine.to_config()
    console = Console(highlight=False)
    interrupted = False

    def on_trial(trial: Trial) -> None:
        status.update(f"{len(tuner.trials)} tried, {_gain(tuner)} ...")
        if trial is tuner.best:
            _write(trial.config, output, f"{model}, workload {workload}; {_gain(tuner)}")

    with Console(stderr=True).status("loading ...") as status:
        tuner = Tuner(
            lambda candidate: Replayer(model, candidate, requests),
            chosen,
            SearchBounds.of(requests),
            limit_s=60 * minutes,
            on_trial=on_trial,
        )
        try:
            tuner.run(start)
        except KeyboardInterrupt:
            interrupted = True
    _print_trials(console, tuner, chosen)
    if tuner.best is not None:
        console.print(f"the best is {_gain(tuner)}")
        console.print(f"written to {output}: use it with --config {output}", markup=False)
    if interrupted:
        raise typer.Exit(130)


def _objective(name: str | None, workload: str) -> Objective:
    name = name if name is not None else OBJECTIVE_OF.get(workload, "balanced")
    if name not in OBJECTIVES:
        raise typer.BadParameter(
            f"must be one of {', '.join(OBJECTIVES)}; got {name}", param_hint="--objective"
        )
    return OBJECTIVES[name]


def _workload(name: str, n_requests: int | None) -> Workload:
    if name in BUILT_IN:
        return Workload.builtin(name, n_requests=n_requests)
    workload = Workload.load(name)
    return workload if n_requests is None else workload.first(n_requests)


def _require_writable(path: Path) -> None:
    """Check the output file before the search."""
    target = path if path.exists() else path.parent
    if path.is_dir() or not target.exists() or not os.access(target, os.W_OK):
        raise typer.BadParameter(f"cannot write {path}", param_hint="--output")


def _gain(tuner: Tuner) -> str:
    return f"{tuner.gain:.2f} times as good as the start"


def _print_trials(console: Console, tuner: Tuner, objective: Objective) -> None:
    # Narrow enough for 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("seqs", "budget", "ubatch", "thr", "poll", "runs", "tok/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("TTFT ms", "ITL ms", "cost", "/best"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for trial in tuner.trials:
        is_best = trial is tuner.best
        table.add_row(*_row(trial, objective, is_best), style="bold" if is_best else None)
    console.print(table)
    for trial in tuner.trials:
        if trial.error:
            console.print(
                f"failed: {EffectiveConfig.of(trial.config)}: {trial.error}", markup=False
            )
    console.print(
        "TTFT, ITL: p50/p99; medians of all runs. /best: cost / cost of the best so far, by the "
        "runs that alternated: only these can be compared."
    )
    console.print(f"cost: {objective.text}")


def _row(trial: Trial, objective: Objective, is_best: bool) -> list[str]:
    row = [str(value) for value in vars(EffectiveConfig.of(trial.config)).values()]
    row.append(str(len(trial.runs)))
    if trial.runs:
        m = trial.median()
        row += [
            f"{m.tokens_per_s:.1f}",
            f"{m.ttft_p50_ms:.0f}/{m.ttft_p99_ms:.0f}",
            f"{m.itl_p50_ms:.0f}/{m.itl_p99_ms:.0f}",
            _text(objective.cost(m)),
            "-" if math.isnan(trial.ratio) else f"{trial.ratio:.2f}",
        ]
    else:
        row += ["-"] * 5
    return [*row, "best" if is_best else trial.verdict]


def _text(cost: float) -> str:
    return f"{cost:.1f}" if cost < 100 else f"{cost:.0f}"


def _write(config: EngineConfig, path: Path, what: str) -> None:
    try:
        config.to_file(path, comment=f"llamaherd {__version__} tune: {what}")
    except OSError as error:
        raise typer.BadParameter(
            f"cannot write {path}: {error.strerror}", param_hint="--output"
        ) from None
