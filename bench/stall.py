"""Stall of running requests when a long prompt arrives: llamaherd against llama-server.

    python bench/stall.py --model smollm2-q4_0.gguf --llama-server BINARY [--threads 2] [--runs 5]

Four requests decode; once each has 20 tokens, a prompt of 4,000 tokens is submitted. Measured are:

- largest gap: the longest time between two tokens of one of the four, the second delivered after
  that time. llamaherd by the engine's timestamps, llama-server by arrival over HTTP;
- TTFT of the long prompt, by the same timestamps;
- total: from the first submit to the last token of all five.

Contestants: the engine with default options and the required sequences and cells; llama-server with
its defaults except for a fifth slot (`-np 5`, and `--kv-unified`, which is the default only without
-np: with the default four slots the prompt would wait for one of the four requests); and the same
with `-b 256 -ub 256`. No common prefixes. All stay loaded and run in turn; the CPU time of idle
ones is printed and should be 0.

Reference: a step with 64 prefill rows and the decode rows of the four, from the engine's last steps
before the long prompt's first token. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_load import Prompts, add_options, collect, greedy, summary, verdict
from llama_server import LlamaServer
from llamaherd import BatchEngine, EngineConfig
from llamaherd.models import resolve

N_NEIGHBOURS, N_SHORT, N_BEFORE, N_LONG_NEW = 4, 32, 20, 32
N_CTX = 8192
CHUNK_ROWS = 64
OURS, DEFAULTS, SMALL = "llamaherd", "llama-server", "llama-server -b 256 -ub 256"


@dataclass(frozen=True)
class Work:
    short: list[list[int]]
    n_short_new: int
    long: list[int]


@dataclass(frozen=True)
class Run:
    """Results of one run, in milliseconds."""

    gaps: list[float]  # largest gap per neighbour
    ttft: float
    total: float
    reference: float | None = None


def evaluate(
    neighbours: list[list[int]], late: list[int], begin_ns: int, late_ns: int, **more: float
) -> Run:
    """Results from delivery times of tokens and the submit time of the long prompt."""
    gaps = [max(b - a for a, b in itertools.pairwise(times) if b > late_ns) for times in neighbours]
    end_ns = max(times[-1] for times in [*neighbours, late])
    return Run(
        gaps=[1e-6 * gap for gap in gaps],
        ttft=1e-6 * (late[0] - late_ns),
        total=1e-6 * (end_ns - begin_ns),
        **more,
    )


def reference_ms(samples: list[dict[str, Any]], n_last: int = 8) -> float:
    """Median time of the last steps with prefill and decode rows, scaled to the reference number of
    prefill rows."""
    times_ns = []
    for before, after in itertools.pairwise(samples):
        n_steps, n_rows, n_decoded, prefill_ns, decode_ns = (
            after[name] - before[name]
            for name in ("n_steps", "n_prefill_rows", "n_decode_rows", "prefill_ns", "decode_ns")
        )
        if n_steps == 1 and n_rows > 0 and n_decoded == N_NEIGHBOURS:
            times_ns.append(prefill_ns * CHUNK_ROWS / n_rows + decode_ns)
    if not times_ns:
        raise RuntimeError(f"no step had prefill rows and decode rows of {N_NEIGHBOURS} requests")
    return 1e-6 * statistics.median(times_ns[-n_last:])


def run_ours(engine: BatchEngine, work: Work) -> Run:
    begin_ns = time.monotonic_ns()
    params = greedy(work.n_short_new)
    neighbours = [engine.submit(prompt, params, cache=False) for prompt in work.short]
    times = [
        [delta.timing.last_ns for delta in itertools.islice(stream, N_BEFORE)]
        for stream in neighbours
    ]
    late_ns = time.monotonic_ns()
    late = engine.submit(work.long, greedy(N_LONG_NEW), cache=False)
    samples = []
    for delta in neighbours[0]:
        times[0].append(delta.timing.last_ns)
        if late.usage.completion_tokens == 0:
            samples.append(engine.metrics().as_dict())
    for mine, stream in zip(times, neighbours, strict=True):
        mine += collect(stream).token_ns
    return evaluate(
        times, collect(late).token_ns, begin_ns, late_ns, reference=reference_ms(samples)
    )


def run_server(server: LlamaServer, work: Work) -> Run:
    begin_ns = time.monotonic_ns()
    neighbours = [server.complete(prompt, work.n_short_new) for prompt in work.short]
    for completion in neighbours:
        completion.wait_for(N_BEFORE)
    late = server.complete(work.long, N_LONG_NEW)
    times = [completion.result() for completion in neighbours]
    return evaluate(times, late.result(), begin_ns, late.submit_ns)


def report(runs: dict[str, list[Run]]) -> None:
    for name, mine in runs.items():
        print(f"{name}, ms: largest gap {summary([max(r.gaps) for r in mine], digits=1)}")
        print(f"  of the least affected neighbour {summary([min(r.gaps) for r in mine], digits=1)}")
        print(f"  TTFT of the long prompt {summary([r.ttft for r in mine], digits=0)}")
        print(f"  total {summary([r.total for r in mine], digits=0)}")
    references = [r.reference for r in runs[OURS] if r.reference is not None]
    print(f"reference, ms: {summary(references, digits=1)}")

    def ratio(figure: Callable[[Run], float], above: str, below: str) -> float:
        pairs = zip(runs[above], runs[below], strict=True)
        return statistics.median(figure(a) / figure(b) for a, b in pairs)

    def gap(run: Run) -> float:
        return max(run.gaps)

    print("medians of the ratios per run:")
    to_reference = [gap(run) / run.reference for run in runs[OURS] if run.reference is not None]
    verdict("largest gap / reference", statistics.median(to_reference), most=1.2)
    verdict(f"largest gap, {DEFAULTS} / ours", ratio(gap, DEFAULTS, OURS), least=8)
    verdict(f"total, ours / {DEFAULTS}", ratio(lambda run: run.total, OURS, DEFAULTS), most=1.5)
    print(f"largest gap, {SMALL} / ours: {ratio(gap, SMALL, OURS):.2f}")
    print(f"total, ours / {SMALL}: {ratio(lambda run: run.total, OURS, SMALL):.2f}")
    print(f"TTFT, ours / {DEFAULTS}: {ratio(lambda run: run.ttft, OURS, DEFAULTS):.2f}")


def take_turns(
    engine: BatchEngine, servers: dict[str, LlamaServer], args: argparse.Namespace
) -> dict[str, list[Run]]:
    prompts = Prompts(engine)
    names = [OURS, *servers]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    collect(engine.submit(prompts.make(100), greedy(8)))
    for server in servers.values():
        server.complete(prompts.make(100), 8).result()
    for i in range(args.runs):
        short = [prompts.make(N_SHORT) for _ in range(N_NEIGHBOURS)]
        work = Work(short, args.new, prompts.make(args.long))
        for j in range(len(names)):
            name = names[(i + j) % len(names)]
            idle = [server for other, server in servers.items() if other != name]
            before_s = sum(server.cpu_s() for server in idle)
            run = run_server(servers[name], work) if name in servers else run_ours(engine, work)
            idle_s = sum(server.cpu_s() for server in idle) - before_s
            runs[name].append(run)
            print(
                f"run {i + 1}, {name}: largest gap {max(run.gaps):.1f} ms, TTFT {run.ttft:.0f} ms,"
                f" total {run.total:.0f} ms; idle servers used {idle_s:.2f} s",
                flush=True,
            )
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.set_defaults(threads=2)
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--long", type=int, default=4000, help="tokens of the long prompt")
    parser.add_argument("--new", type=int, default=400, help="output tokens of each of the four")
    args = parser.parse_args()
    if N_NEIGHBOURS * (N_SHORT + args.new) + args.long + N_LONG_NEW > N_CTX:
        parser.error(f"--long and --new must fit in {N_CTX} cells")
    model = resolve(args.model)
    config = EngineConfig(max_seqs=N_NEIGHBOURS + 1, n_ctx=N_CTX, n_threads=args.threads)
    options = ["-t", str(args.threads), "-c", str(N_CTX)]
    options += ["-np", str(N_NEIGHBOURS + 1), "--kv-unified"]
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(BatchEngine(model, config))
        servers = {
            DEFAULTS: stack.enter_context(LlamaServer(args.llama_server, model, options)),
            SMALL: stack.enter_context(
                LlamaServer(args.llama_server, model, [*options, "-b", "256", "-ub", "256"])
            ),
        }
        report(take_turns(engine, servers, args))


if __name__ == "__main__":
    main()
