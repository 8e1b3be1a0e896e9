"""Benchmark results as a Markdown page with plots."""

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
All contestants stay loaded and run in turn. Each round uses new prompts and starts with another
contestant; one warm-up round is not counted. Values are medians over the rounds, with minimum and
maximum in parentheses. "Speedup" is llamaherd's tokens per second divided by the contestant's, per
round: in-process engines are compared with `llamaherd`, servers with `llamaherd-server`. TTFT is
the time to first token, ITL the inter-token latency (over HTTP: between pieces of text).

All use the same file, number of threads, maximum of concurrent requests and prompts, continued
greedily to a fixed length, ignoring end of text (except llama-cpp-python's server, which has no
such option). `one-at-a-time` is llamaherd with one request at a time and no prefix cache, with the
same kernels and prompt lookup. `llama-server` has its default options, `llama-server-tuned` one
slot per request and a unified KV cache. The client of the servers runs on the same machine and
opens a connection per request.
"""
_TRAPS = """\
## Caveats

- A small model repeats itself after its end of text, which prompt lookup predicts: a single
  sequence becomes several times faster, eight gain little.
- Without common prefixes, and with kernels limited by memory bandwidth for one row, one at a time
  is not much slower: the gain of batching is that of the kernels at more rows.
- Tokens/s of llama-server and xllamacpp over HTTP include the client's work on the same cores.
- OpenVINO GenAI converts the file's weights to its own types.
"""


def load(paths: Sequence[Path]) -> dict[str, Any]:
    """Merge result files of one machine and model.

    Raises:
      InvalidRequestError: A file is not a result of bench, or its machine or model differs from the
        first file's.
    """
    results: dict[str, Any] = {}
    for path in paths:
        try:
            read = json.loads(path.read_text(encoding="utf-8-sig"))
            same = (read["model"], read["environment"]["cpu"])
            runs = read["runs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequestError(f"{path} must be a result file of bench: {error!r}") from None
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
    """Write the page, and the plots into a folder of the same name beside it.

    Raises:
      OSError: A file cannot be written.
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
    yield f"| CPU features | {', '.join(machine['cpu_features'])} |"
    yield f"| CPU kernels | {machine['cpu_kernels']} |"
    yield f"| software | {machine['os']}, Python {machine['python']} |"
    yield f"| llama.cpp within llamaherd | {machine['llama_cpp']} |"
    yield f"| contestants | {', '.join(sorted(versions))} |"
    yield f"| model | {results['model']} |"
    yield f"| threads | {', '.join(map(str, n_threads))} |"


def _run(run: dict[str, Any]) -> Iterator[str]:
    n_rounds = len(next(iter(run["contestants"].values()))["rounds"])
    yield f"## {tables.title(run)}"
    yield ""
    yield f"{run['about'].capitalize()}; {run['n_requests']} requests per round, {n_rounds} rounds."
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
    """Every value in which a contestant is better than llamaherd by more than 5 %."""
    yield "## Where others are better"
    yield ""
    found = list(_ahead(runs))
    yield from found or ["None in these runs."]


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
