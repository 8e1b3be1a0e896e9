"""``llamaherd bench``: compare llamaherd with other engines."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaherd import _core
from llamaherd.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from llamaherd.benchmark.rounds import Plan

_PEERS = "Peers"


def bench(
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="chat, unshared, agents, documents, code-completion, long-prompt or poisson; "
            "repeatable. Default: chat and unshared.",
        ),
    ] = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded trace in Mooncake's JSONL or Azure's CSV format; repeatable."),
    ] = None,
    contestant: Annotated[
        list[str] | None,
        typer.Option(
            "--contestant", "-c", help="Engine or server to measure; repeatable. Default: all."
        ),
    ] = None,
    model: options.Model = options.default_model,
    clients: Annotated[
        list[int] | None,
        typer.Option(help="Concurrent requests; repeatable. Default: as in the workload."),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="Requests or conversations per round.", min=1)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second of open-loop workloads.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Rounds per contestant; results are medians.", min=1)
    ] = 5,
    threads: options.Threads = None,
    llama_server: Annotated[
        Path | None,
        typer.Option(help="Path of llama-server. Default: search PATH.", rich_help_panel=_PEERS),
    ] = None,
    llama_cpp_server: Annotated[
        Path | None,
        typer.Option(
            help="Path of examples/server/server.py of llama-cpp-python's sources.",
            rich_help_panel=_PEERS,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write all results as JSON.")] = None,
) -> None:
    """Compare llamaherd with other engines on the same requests, in interleaved rounds.

    Contestants: llamaherd, one-at-a-time, low-latency, balanced, high-throughput, openvino and
    llama-cpp-python run in process; llamaherd-server, llama-server, llama-server-tuned,
    llama-cpp-python-server and xllamacpp are called over HTTP. Contestants that are not installed
    are
    skipped with a message. Each round has new prompts and starts with another contestant.
    """
    try:
        from llamaherd.benchmark.contestant_pool import CONTESTANTS
        from llamaherd.benchmark.contestants.servers import Programs
        from llamaherd.benchmark.load.scenario_kinds import KINDS, Size
        from llamaherd.benchmark.reporting.environment import environment
        from llamaherd.benchmark.rounds import Plan
    except ModuleNotFoundError as error:
        options.needs_extra(error, "bench")
    from llamaherd.models import resolve

    _require_known(contestant, CONTESTANTS, "--contestant")
    _require_known(workload, KINDS, "--workload")
    names = [*(workload or ()), *map(str, trace or ())] or ["chat", "unshared"]
    path = resolve(model)
    plans = []
    for name in names:
        size = KINDS[name].size if name in KINDS else Size(64, 8, 4.0)
        for n_clients in clients or [size.n_clients]:
            n_chains = requests or max(size.n_chains, n_clients)
            plan = Plan(
                workload=name,
                size=Size(n_chains, n_clients, rate or size.rate),
                contestants=contestant or CONTESTANTS,
                model=str(path),
                n_threads=threads or _core.default_n_threads(),
                n_rounds=rounds,
                programs=Programs(llama_server, llama_cpp_server),
            )
            plan.scenario(0)  # raises its errors before anything is loaded
            plans.append(plan)
    results = {"environment": environment(), "model": path.name, "runs": []}
    _run(plans, results, output)


def _require_known(names: list[str] | None, known: Collection[str], option: str) -> None:
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(
                f"must be one of {', '.join(known)}; got {name}", param_hint=option
            )


def _run(plans: list[Plan], results: dict[str, Any], output: Path | None) -> None:
    from rich.console import Console

    from llamaherd.benchmark.rounds import measure

    # SIGTERM is handled like Ctrl-C, so that the contestants' processes are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(highlight=False)
    with Console(stderr=True).status("loading ...") as status:

        def on_round(name: str, i: int, figures: dict[str, Any]) -> None:
            status.update(f"round {i + 1}: {name} {figures.get('tokens_per_s', 0):.1f} tokens/s")

        for plan in plans:
            run = measure(plan, on_round)
            results["runs"].append(run)
            if output is not None:
                output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            _print_run(console, run)


def _print_run(console: Console, run: dict[str, Any]) -> None:
    from rich.table import Table

    from llamaherd.benchmark.reporting import tables

    console.print(f"{tables.title(run)}: {run['about']}", markup=False)
    header, *body = tables.rows(run)
    table = Table(*header)
    for row in body:
        table.add_row(*row)
    console.print(table)
    for name, why in run["absent"].items():
        console.print(f"{name} is absent: {why}", markup=False)


def bench_report(
    results: Annotated[list[Path], typer.Argument(help="Result files of bench --output.")],
    output: Annotated[
        Path, typer.Option(help="Markdown file to write; plots are written beside it.")
    ] = Path("REPORT.md"),
) -> None:
    """Write a Markdown report with tables and plots from results of bench."""
    try:
        from llamaherd.benchmark.reporting import report
    except ModuleNotFoundError as error:
        options.needs_extra(error, "bench")
    try:
        report.write(report.load(results), output)
    except OSError as error:
        print(f"llamaherd: cannot write {output}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"written to {output}")
