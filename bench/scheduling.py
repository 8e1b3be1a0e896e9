"""Guarantees of the scheduler under overload. Run on an idle machine.

    python bench/scheduling.py overcommit     # a KV cache of half the cells that running requests
    need
    python bench/scheduling.py interactive    # urgent requests during a saturating job
    python bench/scheduling.py tenants        # shares of tenants by weight, not by number of
    requests
    python bench/scheduling.py overload       # requests at three times the capacity
    python bench/scheduling.py neighbour      # another process that keeps a core busy

Each prints its results, its limits and whether they are met; README.md describes the measurements.
"""

from __future__ import annotations

import argparse
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine_load import (
    Backlog,
    Output,
    Prompts,
    StepWatch,
    add_options,
    arrivals_within,
    busy_neighbour,
    cancel,
    collect,
    greedy,
    sleep_until,
    summary,
    tokens_per_s,
    verdict,
)
from llamaherd import BatchEngine, EngineConfig, FinishReason, QueueFullError, Stream, Timing
from llamaherd.percentiles import percentile

MAX_SEQS = 8
LEAD_S = 2.0  # warm-up of a job before measurements


def make_engine(args: argparse.Namespace, n_ctx: int, **options: Any) -> BatchEngine:
    config = EngineConfig(max_seqs=MAX_SEQS, n_ctx=n_ctx, n_threads=args.threads, **options)
    engine = BatchEngine(args.model, config)
    warm_up = [engine.submit([token] * 64, greedy(8), cache=False) for token in range(MAX_SEQS)]
    for stream in warm_up:
        stream.result()
    return engine


def run_all(engine: BatchEngine, prompts: list[list[int]], n_new: int) -> list[Output]:
    streams = [engine.submit(prompt, greedy(n_new)) for prompt in prompts]
    return [collect(stream) for stream in streams]


def count(outputs: list[Output], begin_ns: int, end_ns: int) -> int:
    """Tokens delivered between two times."""
    return sum(begin_ns < moment <= end_ns for output in outputs for moment in output.token_ns)


def overcommit(args: argparse.Namespace) -> None:
    n_prompt, n_new = 64, 192
    n_ctx = MAX_SEQS * (n_prompt + n_new)
    speeds: dict[str, list[float]] = {"enough": [], "half": []}
    n_wrong, n_preempted = 0, []
    with make_engine(args, n_ctx) as enough, make_engine(args, n_ctx // 2) as half:
        prompts = Prompts(enough)
        contestants = [("enough", enough), ("half", half)]
        for i in range(args.runs):
            work = [prompts.make(n_prompt) for _ in range(args.requests)]
            for name, engine in contestants[:: 1 if i % 2 == 0 else -1]:
                before = engine.metrics().as_dict()
                outputs = run_all(engine, work, n_new)
                after = engine.metrics().as_dict()
                speeds[name].append(tokens_per_s(outputs))
                wrong = [out for out in outputs if len(out.token_ns) != n_new]
                n_wrong += len(wrong)
                preempted = after["n_preempted"] - before["n_preempted"]
                if name == "half":
                    n_preempted.append(preempted)
                print(
                    f"run {i + 1}, {name}: {speeds[name][-1]:.1f} tokens/s, preempted {preempted}"
                    f" times, {after['n_prefill_rows'] - before['n_prefill_rows']} prefill rows"
                    + "".join(f"; ended {out.reason}: {out.error}" for out in wrong),
                    flush=True,
                )
    ratios = [a / b for a, b in zip(speeds["half"], speeds["enough"], strict=True)]
    print(
        f"tokens/s: {summary(speeds['enough'], digits=1)} with {n_ctx} cells, "
        f"{summary(speeds['half'], digits=1)} with {n_ctx // 2}; ratio {summary(ratios)}"
    )
    verdict("requests that ended without all tokens", n_wrong, most=0)
    verdict("preemptions, minimum of the runs", min(n_preempted), least=1)
    verdict("throughput ratio, median", statistics.median(ratios), least=0.8)


@dataclass(frozen=True)
class Phase:
    urgent: list[Output]
    job_tokens_per_s: float
    longest_step_s: float


def serve(
    engine: BatchEngine,
    seconds: float,
    submit_job: Callable[[], Stream] | None,
    submit_urgent: Callable[[], Stream],
    arrivals: list[float],
) -> Phase:
    """Run an endless job, single requests at given times, or both."""
    job = Backlog(2 * MAX_SEQS, submit_job) if submit_job else None
    top_up = job.top_up if job else None
    with StepWatch(engine) as watch:
        begin_s = time.monotonic() + LEAD_S
        sleep_until(begin_s, top_up)
        streams = []
        for moment in arrivals:
            sleep_until(begin_s + moment, top_up)
            streams.append(submit_urgent())
        sleep_until(begin_s + seconds, top_up)
        urgent = [collect(stream) for stream in streams]
    begin_ns = int(1e9 * begin_s)
    n_tokens = count(job.end(), begin_ns, begin_ns + int(1e9 * seconds)) if job else 0
    return Phase(urgent, n_tokens / seconds, watch.longest_s)


def interactive(args: argparse.Namespace) -> None:
    with make_engine(args, n_ctx=4096) as engine:
        prompts = Prompts(engine)

        def job() -> Stream:
            return engine.submit(prompts.make(128), greedy(128), priority=10)

        def urgent() -> Stream:
            return engine.submit(prompts.make(64), greedy(32), priority=0)

        quiet, alone, both = [], [], []
        for i in range(args.runs):
            arrivals = arrivals_within(1.0, args.seconds, seed=i)
            quiet.append(serve(engine, args.seconds, None, urgent, arrivals))
            alone.append(serve(engine, args.seconds, job, urgent, []))
            both.append(serve(engine, args.seconds, job, urgent, arrivals))
            print(
                f"run {i + 1}: {len(arrivals)} interactive requests; the job "
                f"{alone[-1].job_tokens_per_s:.1f} tokens/s alone, "
                f"{both[-1].job_tokens_per_s:.1f} beside them; longest step "
                f"{1e3 * both[-1].longest_step_s:.1f} ms",
                flush=True,
            )
    ttft_s = {}
    for name, phases in (("without the job", quiet), ("with it", both)):
        ttft_s[name] = [output.ttft_s for phase in phases for output in phase.urgent]
        p50, p99 = (1e3 * percentile(ttft_s[name], p) for p in (50, 99))
        print(f"TTFT {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, of {len(ttft_s[name])}")
    step_s = statistics.median(phase.longest_step_s for phase in both)
    timings = [output.timing for phase in quiet for output in phase.urgent]
    prefill_s = statistics.median(1e-9 * (t.first_token_ns - t.start_ns) for t in timings)
    raised_s = percentile(ttft_s["with it"], 99) - percentile(ttft_s["without the job"], 99)
    print(
        f"longest step {1e3 * step_s:.1f} ms (median of the runs), own prefill "
        f"{1e3 * prefill_s:.1f} ms (median, without the job)"
    )
    verdict("p99 TTFT raised, ms", 1e3 * raised_s, most=1e3 * (step_s + prefill_s))
    print(f"  that is {raised_s / step_s:.2f} steps")
    ratios = [b.job_tokens_per_s / a.job_tokens_per_s for a, b in zip(alone, both, strict=True)]
    print(f"the job's tokens/s with them / alone: {summary(ratios)}")
    verdict("the job's ratio, median", statistics.median(ratios), least=0.5)


def tenant_ratio(args: argparse.Namespace, weights: dict[str, float], seed: int) -> float:
    """Ratio of tokens of 'many' to 'few' while both have queued or running requests."""
    n_prompt, n_new = 32, 48
    numbers = {"many": 10 * args.requests, "few": args.requests}
    with make_engine(args, 2048, tenant_weights=weights) as engine:
        prompts = Prompts(engine, seed)
        # Other requests run while both tenants queue theirs, so that neither starts first.
        others = [
            engine.submit(prompts.make(n_prompt), greedy(128), tenant="others")
            for _ in range(MAX_SEQS)
        ]
        for stream in others:
            next(iter(stream))
        streams = {
            tenant: [
                engine.submit(prompts.make(n_prompt), greedy(n_new), tenant=tenant)
                for _ in range(n)
            ]
            for tenant, n in numbers.items()
        }
        if any(stream.finished for stream in others):
            raise RuntimeError("the others ended before all requests were queued")
        few = [collect(stream) for stream in streams["few"]]
        cancel(streams["many"])
        many = [collect(stream) for stream in streams["many"]]

    def ratio_until(moment: Callable[[Timing], int]) -> float:
        """Ratio until the last request of the first tenant to finish reaches `moment`."""
        end_ns = min(max(moment(output.timing) for output in outputs) for outputs in (many, few))
        return count(many, 0, end_ns) / max(1, count(few, 0, end_ns))

    ratio = ratio_until(lambda timing: timing.last_ns)
    queued = ratio_until(lambda timing: timing.start_ns or timing.last_ns)
    print(f"  {ratio:.3f}; while both have queued requests {queued:.3f}", flush=True)
    return ratio


def tenants(args: argparse.Namespace) -> None:
    for many, few in ((1.0, 1.0), (2.0, 1.0)):
        print(f"weights {many:g}:{few:g}, requests {10 * args.requests}:{args.requests}")
        weights = {"many": many, "few": few}
        ratios = [tenant_ratio(args, weights, seed) for seed in range(args.runs)]
        print(f"  served tokens, median {summary(ratios, digits=3)}")
        relative = statistics.median(ratios) / (many / few)
        verdict("  to the weights", relative, least=0.9, most=1.1)


@dataclass(frozen=True)
class Attempt:
    at_ns: int  # time when submit() returned or raised
    spent_s: float
    arrival: bool  # False: retry of a rejected request
    stream: Stream | None
    retry_after_s: float = 0.0


def attempt(submit: Callable[[list[int]], Stream], prompt: list[int], arrival: bool) -> Attempt:
    begin_ns = time.monotonic_ns()
    stream, retry_after_s = None, 0.0
    try:
        stream = submit(prompt)
    except QueueFullError as error:
        retry_after_s = error.retry_after_s
    end_ns = time.monotonic_ns()
    return Attempt(end_ns, 1e-9 * (end_ns - begin_ns), arrival, stream, retry_after_s)


def offer(
    submit: Callable[[list[int]], Stream],
    make_prompt: Callable[[], list[int]],
    arrivals: list[float],
) -> list[Attempt]:
    """Send requests at given times; the last rejected one is retried every 10 ms, to record when
    requests are admitted."""
    attempts: list[Attempt] = []
    begin_s = time.monotonic()
    refused: list[int] | None = None
    for moment in arrivals:
        while refused is not None and time.monotonic() + 0.01 < begin_s + moment:
            time.sleep(0.01)
            attempts.append(attempt(submit, refused, arrival=False))
            if attempts[-1].stream is not None:
                refused = None
        sleep_until(begin_s + moment)
        prompt = make_prompt()
        attempts.append(attempt(submit, prompt, arrival=True))
        if attempts[-1].stream is None:
            refused = prompt
    return attempts


def retry_ratios(attempts: list[Attempt]) -> list[float]:
    """Ratios of retry_after_s of rejected arrivals to the time until a request was admitted."""
    admitted_ns = [a.at_ns for a in attempts if a.stream is not None]
    ratios = []
    for a in attempts:
        i = bisect_right(admitted_ns, a.at_ns)
        if a.arrival and a.stream is None and i < len(admitted_ns):
            ratios.append(a.retry_after_s / (1e-9 * (admitted_ns[i] - a.at_ns)))
    return ratios


def judge_refusals(runs: list[list[Attempt]]) -> None:
    refused = [a for attempts in runs for a in attempts if a.stream is None]
    print(
        f"{sum(a.arrival for a in refused)} arrivals rejected; {len(refused)} rejections in total"
    )
    spent_ms = [1e3 * a.spent_s for a in refused]
    verdict("submit() until QueueFullError, median ms", percentile(spent_ms, 50), most=10)
    verdict("submit() until QueueFullError, p99 ms", percentile(spent_ms, 99), most=100)
    ratios = [ratio for attempts in runs for ratio in retry_ratios(attempts)]
    deciles = ", ".join(f"p{p} {percentile(ratios, p):.2f}" for p in (5, 10, 25, 50, 75, 90, 95))
    within = sum(0.5 <= ratio <= 2 for ratio in ratios) / max(1, len(ratios))
    print(f"retry_after_s / time until admission, of {len(ratios)}: {deciles}")
    print(f"  within a factor of 2: {100 * within:.0f} %")
    verdict("  median", percentile(ratios, 50), least=0.5, most=2)


def judge_ends(outputs: list[Output], deadline_s: float, step_s: float) -> None:
    late_s = {
        reason: [
            1e-9 * (output.timing.last_ns - output.timing.submit_ns) - deadline_s
            for output in outputs
            if output.reason == reason
        ]
        for reason in (FinishReason.LENGTH, FinishReason.DEADLINE)
    }
    n_length, n_deadline = (len(late) for late in late_s.values())
    print(
        f"{len(outputs)} admitted: {n_length} with all tokens, {n_deadline} ended at their "
        f"deadline of {deadline_s:.1f} s; longest step {1e3 * step_s:.1f} ms"
    )
    verdict("other finish reasons", len(outputs) - n_length - n_deadline, most=0)
    verdict("ended at their deadline", n_deadline, least=1)
    latest_s = max((late for both in late_s.values() for late in both), default=float("nan"))
    verdict("latest end after the deadline, ms", 1e3 * latest_s, most=1e3 * step_s)


def overload(args: argparse.Namespace) -> None:
    n_prompt, n_new, max_queued = 64, 192, 16
    with make_engine(args, 2048, max_queued=max_queued) as engine:
        prompts = Prompts(engine)

        def job() -> Stream:
            return engine.submit(prompts.make(n_prompt), greedy(n_new))

        phase = serve(engine, args.seconds / 3, job, job, [])
        per_s = phase.job_tokens_per_s / n_new
        # Relative to the time of the last request in a full queue, so that some deadlines pass.
        deadline_s = args.deadline or 0.8 * (max_queued + MAX_SEQS) / per_s
        print(f"capacity {per_s:.2f} requests/s; offered {3 * per_s:.2f} for {args.seconds} s")

        def submit(prompt: list[int]) -> Stream:
            return engine.submit(prompt, greedy(n_new), deadline_s=deadline_s)

        runs: list[list[Attempt]] = []
        outputs: list[Output] = []
        with StepWatch(engine) as watch:
            for seed in range(args.runs):
                arrivals = arrivals_within(3 * per_s, args.seconds, seed)
                runs.append(offer(submit, lambda: prompts.make(n_prompt), arrivals))
                outputs += [collect(a.stream) for a in runs[-1] if a.stream is not None]
    judge_refusals(runs)
    judge_ends(outputs, deadline_s, watch.longest_s)


def neighbour(args: argparse.Namespace) -> None:
    n_prompt, n_new = 64, 64
    idle, busy, ratios = [], [], []
    with make_engine(args, 2048) as engine:
        prompts = Prompts(engine)

        def speed() -> float:
            work = [prompts.make(n_prompt) for _ in range(args.requests)]
            return tokens_per_s(run_all(engine, work, n_new))

        for i in range(args.runs):
            idle.append(speed())
            with busy_neighbour():
                busy.append(speed())
            ratios.append(busy[-1] / idle[-1])
            print(
                f"run {i + 1}: {idle[-1]:.1f} tokens/s, beside the neighbour {busy[-1]:.1f}",
                flush=True,
            )
    print(
        f"tokens/s: {summary(idle, digits=1)}, beside the neighbour {summary(busy, digits=1)}; "
        f"ratio {summary(ratios)}"
    )
    verdict("ratio, median", statistics.median(ratios), least=0.45)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def add(function: Callable[[argparse.Namespace], None], runs: int) -> argparse.ArgumentParser:
        command = commands.add_parser(function.__name__)
        add_options(command, runs)
        command.set_defaults(function=function)
        return command

    for function, runs, n_requests in ((overcommit, 5, 16), (tenants, 3, 48), (neighbour, 5, 16)):
        add(function, runs).add_argument("--requests", type=int, default=n_requests)
    for function, runs in ((interactive, 5), (overload, 1)):
        add(function, runs).add_argument("--seconds", type=float, default=60)
    commands.choices["overload"].add_argument(
        "--deadline",
        type=float,
        help="seconds; default: 0.8 of the time of the last request in a full queue",
    )
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
