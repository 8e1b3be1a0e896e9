"""Results of a run as a table."""

from __future__ import annotations

from typing import Any

from llamaherd.benchmark.reporting import figures

HEADER = (
    "contestant",
    "tokens/s",
    "speedup of llamaherd",
    "TTFT p50, ms",
    "ITL p50",
    "ITL p99",
    "E2E mean",
)


def title(run: dict[str, Any]) -> str:
    when = "open loop" if run["open_loop"] else f"{run['n_clients']} at once"
    return f"{run['workload']}, {when}"


def rows(run: dict[str, Any]) -> list[tuple[str, ...]]:
    """A header, and a row per contestant: medians over the rounds; for tokens per second and the
    speedup also minimum and maximum."""
    return [HEADER, *(_row(run, name) for name in run["contestants"])]


def _row(run: dict[str, Any], name: str) -> tuple[str, ...]:
    rounds = run["contestants"][name]["rounds"]
    gain = figures.gain(run, name)
    own = name == figures.own_of(name)
    failed = figures.n_errors(rounds)
    latencies = (
        figures.latency(rounds, key, rank)
        for key, rank in (
            ("ttft_ms", "p50"),
            ("itl_ms", "p50"),
            ("itl_ms", "p99"),
            ("e2e_ms", "mean"),
        )
    )
    return (
        name + (f" ({failed} failed)" if failed else ""),
        figures.throughput(rounds).text(0),
        "" if own or gain is None else gain.text(2),
        *("" if value is None else f"{value:,.1f}" for value in latencies),
    )
