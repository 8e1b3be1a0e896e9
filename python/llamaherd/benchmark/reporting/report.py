"""A benchmark's results as a Markdown page with pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llamaherd._core import InvalidRequestError
from llamaherd.benchmark.reporting import figures, plots, tables

_BETTER = (
    ("tokens_per_s", "", "output tokens per second"),
    ("ttft_ms", "p50", "TTFT p50"),
    ("itl_ms", "p50", "ITL p50"),
    ("itl_ms", "p99", "ITL p99"),
)
_HOW = """\
Contestants take turns, each round with prompts of its own and another one first; all stay loaded,
and one round before the first is not counted. Given are medians over the rounds, and in parentheses
the smallest and the largest value. "Faster by" is our tokens per second divided by the
contestant's, round by round: called contestants are compared with `llamaherd`, servers with
`llamaherd-server`. TTFT is the time to the first token, ITL the time between tokens (over HTTP:
between pieces of text).

All get the same file, the same number of threads, room for as many requests as are asked at once,
and the same prompts, continued greedily to a fixed length whatever the model says (but for
llama-cpp-python's server, which cannot). `one-at-a-time` is llamaherd with one request at a time,
each prompt computed anew; it has the same kernels, and guesses tokens as llamaherd does.
`llama-server` runs with its defaults, `llama-server-tuned` with a slot for each request and one KV
cache for all. The client of the servers shares the machine with them and opens a connection for
each request.
"""
_TRAPS = """\
## Traps

- A small model that goes on behind its end of text repeats itself, and prompt lookup guesses what
  is repeated: one sequence alone becomes several times as quick by it, eight gain little.
- With nothing in common and kernels that are as quick for one row as memory allows, one at a time
  is not far behind: what batching gains there is what kernels gain from more rows.
- llama-server's and xllamacpp's tokens/s over HTTP include their client's work, on the same cores.
- OpenVINO GenAI reads the file's weights into a graph with types of its own.
"""


def load(paths: Sequence[Path]) -> dict[str, Any]:
    """Results of one machine and model in several files, as one.

    Raises:
      InvalidRequestError: A file is none of ours, or of another machine or model than the first.
    """
    results: dict[str, Any] = {}
    for path in paths:
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            same = (read["model"], read["environment"]["cpu"])
            runs = read["runs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequestError(f"{path} has no results of a benchmark: {error!r}") from None
        if not results:
            results = read
        elif same != (results["model"], results["environment"]["cpu"]):
            raise InvalidRequestError(
                f"{path} is of {same}, the file before it of "
                f"{(results['model'], results['environment']['cpu'])}"
            )
        else:
            results["runs"] += runs
    return results


def write(results: dict[str, Any], path: Path) -> None:
    """Writes the page, and the pictures into a folder of its name beside it.

    Raises:
      OSError: They cannot be written.
    """
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    pictures = plots.draw(results, folder)
    lines = ["# Report", "", *_environment(results), "", _HOW]
    for title, picture in pictures:
        lines += [f"![{title}]({picture.relative_to(path.parent).as_posix()})", ""]
    for run in results["runs"]:
        lines += [*_run(run), ""]
    lines += [*_peers_are_better(results["runs"]), "", _TRAPS]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _environment(results: dict[str, Any]) -> Iterator[str]:
    machine = results["environment"]
    versions = {
        contestant["version"]
        for run in results["runs"]
        for contestant in run["contestants"].values()
    }
    n_threads = sorted({run["n_threads"] for run in results["runs"]})
    yield "| | |"
    yield "|---|---|"
    yield f"| date | {machine['date']} |"
    yield f"| processor | {machine['cpu']}, {machine['n_cores']} cores |"
    yield f"| memory | {machine['memory_gib']} GiB |"
    yield f"| its features | {', '.join(machine['cpu_features'])} |"
    yield f"| our kernels | {machine['cpu_kernels']} |"
    yield f"| software | {machine['os']}, Python {machine['python']} |"
    yield f"| llama.cpp within llamaherd | {machine['llama_cpp']} |"
    yield f"| contestants | {', '.join(sorted(versions))} |"
    yield f"| model | {results['model']} |"
    yield f"| threads | {', '.join(map(str, n_threads))} |"


def _run(run: dict[str, Any]) -> Iterator[str]:
    n_rounds = len(next(iter(run["contestants"].values()))["rounds"])
    yield f"## {tables.title(run)}"
    yield ""
    yield f"{run['about'].capitalize()}; {run['n_requests']} requests a round, {n_rounds} rounds."
    yield ""
    header, *body = tables.rows(run)
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in body:
        yield f"| {' | '.join(row)} |"
    for contestant, why in run["absent"].items():
        yield ""
        yield f"{contestant} is absent: {why}."


def _peers_are_better(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every figure in which somebody else is ahead of ours by more than a twentieth."""
    yield "## Where others are better"
    yield ""
    found = list(_ahead(runs))
    yield from found or ["Nowhere in these runs."]


def _ahead(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    for run in runs:
        for name, contestant in run["contestants"].items():
            ours = run["contestants"].get(figures.own_of(name))
            if ours is None or ours is contestant or name in figures.PRESETS:
                continue
            better = []
            for key, rank, label in _BETTER:
                a, b = (_value(one["rounds"], key, rank) for one in (ours, contestant))
                if a and b and (b > 1.05 * a if not rank else b < a / 1.05):
                    better.append(f"{label} {b:,.1f} against {a:,.1f}")
            if better:
                where = tables.title(run)
                yield f"- {name} ({where}): {'; '.join(better)}."


def _value(rounds: Sequence[dict[str, Any]], key: str, rank: str) -> float | None:
    return figures.latency(rounds, key, rank) if rank else figures.throughput(rounds).median
