"""Shared by the scheduling benchmarks: prompts, jobs, arrivals, results and verdicts."""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

from llamaherd import BatchEngine, FinishReason, SamplingParams, Stream, Timing
from llamaherd.benchmark.load.arrival import poisson
from llamaherd.benchmark.load.synthetic_text import WORDS
from llamaherd.models import DEFAULT_MODEL


def add_options(parser: argparse.ArgumentParser, runs: int = 5) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help="GGUF file or catalogue name")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the model")
    parser.add_argument("--runs", type=int, default=runs, help="runs per contestant, interleaved")


class Prompts:
    """Distinct prompts of exact lengths that a model continues with text."""

    def __init__(self, engine: BatchEngine, seed: int = 0) -> None:
        self._words = [engine.tokenize(" " + word, add_special=False) for word in WORDS]
        self._rng = random.Random(seed)

    def make(self, n_tokens: int) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < n_tokens:
            tokens += self._rng.choice(self._words)
        return tokens[:n_tokens]


def greedy(n_new: int) -> SamplingParams:
    """Greedy sampling of exactly `n_new` tokens."""
    return SamplingParams(temperature=0, max_tokens=n_new, ignore_eos=True)


@dataclass(frozen=True)
class Output:
    """A finished request; `token_ns` has the delivery time of each token."""

    token_ns: list[int]
    timing: Timing
    reason: FinishReason
    error: str

    @property
    def ttft_s(self) -> float:
        return 1e-9 * (self.timing.first_token_ns - self.timing.submit_ns)


def collect(stream: Stream) -> Output:
    """Wait for the end of a request."""
    token_ns: list[int] = []
    for delta in stream:
        token_ns += [delta.timing.last_ns] * len(delta.token_ids)
    result = stream.result()
    assert result.timing is not None
    return Output(token_ns, result.timing, result.finish_reason, result.error)


def tokens_per_s(outputs: list[Output]) -> float:
    """Tokens per second from the first submit to the last token."""
    begin = min(output.timing.submit_ns for output in outputs)
    end = max(output.timing.last_ns for output in outputs)
    return sum(len(output.token_ns) for output in outputs) / (1e-9 * (end - begin))


def cancel(streams: Iterable[Stream]) -> None:
    """Cancel requests and wait for their end."""
    streams = list(streams)
    for stream in streams:
        stream.cancel()
    for stream in streams:
        stream.result()


class Backlog:
    """An endless job: `top_up()` keeps `n` of its requests unfinished."""

    def __init__(self, n: int, submit: Callable[[], Stream]) -> None:
        self._n = n
        self._submit = submit
        self._unfinished: list[Stream] = []
        self._streams: list[Stream] = []

    def top_up(self) -> None:
        self._unfinished = [stream for stream in self._unfinished if not stream.finished]
        while len(self._unfinished) < self._n:
            self._unfinished.append(self._submit())
            self._streams.append(self._unfinished[-1])

    def end(self) -> list[Output]:
        """Cancel unfinished requests; returns the outputs."""
        cancel(self._unfinished)
        return [collect(stream) for stream in self._streams]


def sleep_until(moment_s: float, meanwhile: Callable[[], None] | None = None) -> None:
    """Sleep until a time of `time.monotonic()`; `meanwhile` is called every 20 ms."""
    while (left := moment_s - time.monotonic()) > 0:
        if meanwhile is not None:
            meanwhile()
            left = min(left, 0.02)
        time.sleep(left)


def arrivals_within(rate: float, seconds: float, seed: int) -> list[float]:
    """Poisson arrival times in (0, seconds) at an average of `rate` per second."""
    moments = islice(poisson(rate, seed), 1, None)
    return list(takewhile(lambda moment: moment < seconds, moments))


class StepWatch:
    """Longest step of the engine within the `with`; polls metrics every 4 ms."""

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.longest_s = 0.0

    def _watch(self) -> None:
        before = self._engine.metrics().as_dict()
        while not self._ended.wait(0.004):
            now = self._engine.metrics().as_dict()
            if n_steps := now["n_steps"] - before["n_steps"]:
                mean_ns = (now["step_ns"] - before["step_ns"]) / n_steps
                self.longest_s = max(self.longest_s, 1e-9 * mean_ns)
                before = now

    def __enter__(self) -> StepWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def summary(values: list[float], unit: str = "", digits: int = 2) -> str:
    low, mid, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{mid}{' ' if unit else ''}{unit} ({low} to {high})"


def verdict(
    name: str, value: float, *, least: float | None = None, most: float | None = None
) -> None:
    """Print a value with its limit and whether it is met; NaN (not measured) is never met."""
    met = (least is None or value >= least) and (most is None or value <= most)
    bars = [f">= {least:.3g}"] if least is not None else []
    bars += [f"<= {most:.3g}"] if most is not None else []
    print(f"{name}: {value:.3g}, bar {' and '.join(bars)}: {'met' if met else 'NOT MET'}")
