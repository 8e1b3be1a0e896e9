"""Plots of benchmark results, as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
# Text as text, without date and random ids: equal results give equal files.
matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "llamaherd",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

from matplotlib.figure import Figure  # noqa: E402

from llamaherd.benchmark.reporting import figures  # noqa: E402

_OURS, _THEIRS = "#1f77b4", "#b0b0b0"


def draw(results: dict[str, Any], folder: Path) -> list[tuple[str, Path]]:
    """Write all plots for which there are results.

    Returns:
      Title and file of each plot.
    """
    pictures = [
        ("One sequence and batched: output tokens per second", "single_and_batched", _single),
        ("Output tokens per second", "throughput", _throughput),
        ("By concurrent requests", "concurrency", _concurrency),
        ("Over time, llamaherd", "over_time", _over_time),
    ]
    made = []
    for title, name, make in pictures:
        figure = make(results["runs"])
        if figure is not None:
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            made.append((title, path))
    return made


def _new(n_fields: int, height: float = 2.8, width: float = 3.6) -> tuple[Figure, list[Any]]:
    """A figure with rows of up to three axes of that size, in inches."""
    n_columns, n_rows = min(n_fields, 3), (n_fields + 2) // 3
    size = (min(12.0, width * n_columns + 0.8), height * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    fields = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for spare in fields[n_fields:]:
        spare.set_axis_off()
    return figure, fields[:n_fields]


def _median(run: dict[str, Any], name: str) -> float:
    return figures.throughput(run["contestants"][name]["rounds"]).median


def _single(runs: Sequence[dict[str, Any]]) -> Figure | None:
    """Tokens per second of one sequence and batched, per workload."""
    both = [run for run in runs if {"one-at-a-time", figures.OWN} <= set(run["contestants"])]
    if not both:
        return None
    figure, (axes,) = _new(1, width=max(3.6, 1.3 * len(both)))
    for i, run in enumerate(both):
        single, batched = _median(run, "one-at-a-time"), _median(run, figures.OWN)
        axes.bar(
            [i - 0.2], [single], 0.38, color=_THEIRS, label="one at a time" if i == 0 else None
        )
        axes.bar([i + 0.2], [batched], 0.38, color=_OURS, label="batched" if i == 0 else None)
        axes.annotate(f"{batched / single:.1f} x", (i + 0.2, batched), ha="center", va="bottom")
    axes.set_xticks(range(len(both)), [_label(run).replace(", ", "\n") for run in both])
    axes.set_ylabel("tokens/s")
    axes.legend(frameon=False)
    return figure


def _throughput(runs: Sequence[dict[str, Any]]) -> Figure | None:
    """All contestants of the runs with the most contestants, one plot per workload."""
    wide = [run for run in runs if len(run["contestants"]) > 2]
    if not wide:
        return None
    figure, fields = _new(len(wide), 3.2)
    for axes, run in zip(fields, wide, strict=True):
        names = sorted(run["contestants"], key=lambda name: _median(run, name))
        ours = (figures.OWN, figures.OWN_SERVER, *figures.PRESETS)
        colours = [_OURS if name in ours else _THEIRS for name in names]
        values = [_median(run, name) for name in names]
        axes.barh(range(len(names)), values, color=colours)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(_label(run))
        axes.set_xlabel("tokens/s")
    return figure


def _concurrency(runs: Sequence[dict[str, Any]]) -> Figure | None:
    """By concurrency, for the workload and contestants measured at the most levels."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        alike.setdefault((run["workload"], *run["contestants"]), []).append(run)
    widest = max(alike.values(), key=lambda same: len({run["n_clients"] for run in same}))
    if len({run["n_clients"] for run in widest}) < 3:
        return None
    widest = sorted(widest, key=lambda run: run["n_clients"])
    names = list(widest[0]["contestants"])
    figure, fields = _new(3)
    parts = (
        ("tokens/s", None, ""),
        ("TTFT p50, ms", "ttft_ms", "p50"),
        ("ITL p99, ms", "itl_ms", "p99"),
    )
    for axes, (label, key, rank) in zip(fields, parts, strict=True):
        for name in names:
            points = [(run["n_clients"], _point(run, name, key, rank)) for run in widest]
            known = [(x, y) for x, y in points if y is not None]
            axes.plot(*zip(*known, strict=True), marker="o", label=name)
        axes.set_xlabel("concurrent requests")
        axes.set_title(label)
        axes.set_xscale("log", base=2)
        axes.set_xticks([run["n_clients"] for run in widest])
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_ylim(bottom=0)
    fields[0].legend(frameon=False)
    figure.suptitle(widest[0]["workload"])
    return figure


def _point(run: dict[str, Any], name: str, key: str | None, rank: str) -> float | None:
    rounds = run["contestants"][name]["rounds"]
    return _median(run, name) if key is None else figures.latency(rounds, key, rank)


def _over_time(runs: Sequence[dict[str, Any]]) -> Figure | None:
    """Gauges of llamaherd during the last round of the first run that has them."""
    sampled = [run for run in runs if run["contestants"].get(figures.OWN, {}).get("samples")]
    if not sampled:
        return None
    samples = sampled[0]["contestants"][figures.OWN]["samples"]
    figure, (rows, cells, hits) = _new(3)
    rows.plot(*_windows(samples, "n_rows", "n_rows_possible"))
    rows.set_title("batch utilisation")
    rows.set_ylim(0, 1.05)
    moments = [sample["at_s"] for sample in samples]
    cells.plot(moments, [sample["n_cells_alone"] for sample in samples], label="without sharing")
    cells.plot(moments, [sample["n_cells"] for sample in samples], label="used")
    cells.set_title("KV cells of running requests")
    cells.legend(frameon=False)
    hits.plot(*_windows(samples, "n_found", "n_looked_up"), marker=".")
    hits.set_title("cache hit rate")
    hits.set_ylim(0, 1.05)
    for axes in (rows, cells, hits):
        axes.set_xlabel("seconds")
    figure.suptitle(_label(sampled[0]))
    return figure


def _windows(
    samples: Sequence[dict[str, float]], part: str, whole: str
) -> tuple[list[float], list[float]]:
    """Times at which the total grew since the previous sample, and the share of the part."""
    moments, ratios = [], []
    for before, after in itertools.pairwise(samples):
        n = after[whole] - before[whole]
        if n > 0:
            moments.append(after["at_s"])
            ratios.append((after[part] - before[part]) / n)
    return moments, ratios


def _label(run: dict[str, Any]) -> str:
    return f"{Path(run['workload']).stem}, {run['n_clients']} at once"
