"""``llamaherd bench-serve``: load test of an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llamaherd.cli import options


def bench_serve(
    url: Annotated[
        str, typer.Argument(help="Base URL of the API, such as http://127.0.0.1:8000/v1.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Model name. Default: the server's first.")
    ] = None,
    requests: Annotated[int, typer.Option(help="Number of requests.")] = 64,
    concurrency: Annotated[int, typer.Option(help="Concurrent clients (closed loop).")] = 8,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Requests per second, Poisson arrivals (open loop); overrides --concurrency."
        ),
    ] = None,
    shared_words: Annotated[
        int, typer.Option(help="Words of the prefix common to all prompts.")
    ] = 0,
    words: Annotated[int, typer.Option(help="Distinct words of each prompt.")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Output tokens per request.")] = 64,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSONL file of request bodies. Default: synthetic prompts."),
    ] = None,
    completions: Annotated[
        bool, typer.Option("--completions", help="Use /completions instead of /chat/completions.")
    ] = False,
    warmup: Annotated[int, typer.Option(help="Warm-up requests that are not counted.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of prompts and arrival times.")] = 0,
    api_key: Annotated[
        str | None, typer.Option(help="API key. Default: environment variable OPENAI_API_KEY.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the results as JSON.")] = None,
) -> None:
    """Measure a server under load: tokens per second, TTFT, inter-token latency."""
    try:
        from llamaherd.benchmark.load import generator, measurements
    except ModuleNotFoundError as error:
        options.needs_extra(error, "bench")
    path = "completions" if completions else "chat/completions"
    bodies = generator.synthetic_bodies(
        warmup + requests,
        shared_words=shared_words,
        words=words,
        max_tokens=max_tokens,
        path=path,
        seed=seed,
    )
    if prompts is not None:
        given = _read_bodies(prompts)
        bodies = [given[i % len(given)] for i in range(warmup + requests)]

    def run(some: list[dict[str, Any]], concurrency: int, rate: float | None) -> Any:
        spec = generator.LoadSpec(
            url=url.rstrip("/"),
            bodies=some,
            path=path,
            model=model,
            api_key=api_key or os.environ.get("OPENAI_API_KEY"),
            concurrency=concurrency,
            rate=rate,
            seed=seed,
        )
        try:
            return measurements.summary(asyncio.run(generator.run_load(spec)))
        except OSError as error:
            print(f"llamaherd: cannot reach {url}: {error}", file=sys.stderr)
            raise typer.Exit(1) from None

    if warmup:
        run(bodies[:warmup], 1, None)
    figures = run(bodies[warmup:], concurrency, rate)
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    _show(figures)
    if figures["n_errors"] == figures["n_requests"]:
        raise typer.Exit(1)


def _read_bodies(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        bodies = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} must be JSONL in UTF-8: {error}") from None
    if not bodies or not all(isinstance(body, dict) for body in bodies):
        raise typer.BadParameter(f"{path} must hold at least 1 line, each a JSON object")
    return bodies


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"requests   {figures['n_requests']}, of which {figures['n_errors']} failed")
    for error in figures["errors"]:
        console.print(f"           {error}", markup=False)
    if "seconds" not in figures:
        return
    console.print(
        f"tokens     {figures['n_completion_tokens']} in {figures['seconds']:.2f} s: "
        f"{figures['tokens_per_s']:.1f} tokens/s; {figures['requests_per_s']:.2f} requests/s"
    )
    table = Table("ms", "mean", "p50", "p90", "p99", "max")
    for key, name in (
        ("ttft_ms", "to first token"),
        ("itl_ms", "between pieces"),
        ("tpot_ms", "per token"),
        ("e2e_ms", "whole request"),
    ):
        if figures[key]:
            table.add_row(name, *[f"{value:.1f}" for value in figures[key].values()])
    console.print(table)
