"""Figures for Prometheus. Names and units after vLLM's where the meaning is the same."""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llamaherd._core import FinishReason, Timing
from llamaherd.server.observability.recent_quantiles import RecentTimes

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
_NS = 1e-9

# Of the engine's metrics: name, what it is, key. Times in seconds, all since the engine was made.
_COUNTERS = (
    ("decode_rows", "Next tokens computed.", "n_decode_rows"),
    ("prefill_rows", "Prompt tokens computed.", "n_prefill_rows"),
    ("decode_calls", "Model calls with next tokens.", "n_decode_calls"),
    ("prefill_calls", "Model calls with prompt tokens alone.", "n_prefill_calls"),
    ("generation_tokens", "Output tokens.", "n_output_tokens"),
    ("num_preemptions", "Times that a running request had to wait again.", "n_preempted"),
    ("requests_shed", "Requests ended for a deadline before anything was computed.", "n_shed"),
    ("draft_tokens", "Tokens guessed by prompt lookup.", "n_drafted"),
    ("draft_tokens_accepted", "Of them, guessed right.", "n_draft_accepted"),
)
_GAUGES = (
    ("num_requests_running", "Requests that run.", "n_running"),
    ("num_requests_waiting", "Requests that wait.", "n_waiting"),
    ("max_num_seqs", "As many can run at once.", "n_seqs"),
    ("kv_cells", "Cells of the KV cache.", "n_cells"),
    ("kv_cells_used", "Cells in use, those of cached prefixes included.", "n_cells_used"),
    ("kv_cells_reserved", "Cells promised to running requests.", "n_cells_reserved"),
    ("batch_utilisation", "Rows used of rows possible in steps with next tokens.",
     "batch_utilisation"),
    ("time_per_token_seconds", "Model time of a next token.", "time_per_token_s"),
    (
        "slowdown_ratio",
        "Duration of model calls relative to an idle machine.",
        "slowdown_ratio",
    ),
)  # fmt: skip
_CACHE_COUNTERS = (
    ("prefix_cache_queries", "Prompt tokens looked up.", ("n_looked_up",)),
    ("prefix_cache_hits", "Of them, found.",
     ("n_from_running", "n_from_finished", "n_from_in_flight", "n_from_ram", "n_from_disk")),
    ("prefix_cache_evictions", "Tokens that had to leave the KV cache.",
     ("n_evicted_for_cells", "n_evicted_for_holders", "n_evicted_by_clear")),
)  # fmt: skip
_CACHE_GAUGES = (
    ("kv_cells_reclaimable", "Cells that nobody who runs needs.", "n_cells_reclaimable"),
    ("prefix_cache_ram_bytes", "Host memory of evicted prefixes.", "n_bytes_ram"),
    ("prefix_cache_disk_bytes", "Disk space of evicted prefixes.", "n_bytes_disk"),
    ("prefix_cache_hit_rate", "Part of prompt tokens that was found.", "hit_rate"),
)
_PARTS: tuple[tuple[str, str, str, list[tuple[str, str, float]]], ...] = (
    (
        "step_seconds",
        "Engine time by what it went into.",
        "part",
        [(part, f"{part}_ns", _NS) for part in ("decode", "prefill", "sample", "host")],
    ),
    (
        "engine_errors",
        "Decode calls that failed, by kind.",
        "kind",
        [
            (kind, f"n_{kind}", 1)
            for kind in ("no_room", "invalid_batch", "aborted", "failed", "poisoned_rows")
        ],
    ),
    (
        "requests_finished",
        "Requests by how they ended.",
        "finished_reason",
        [
            (reason, f"n_finished_{reason}", 1)
            for reason in ("stop", "length", "cancelled", "deadline", "error")
        ],
    ),
)


class _Engines(Collector):
    """What the engines count, read when Prometheus asks."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded

    def collect(self) -> Iterator[Metric]:
        figures = {
            name: llm.engine.metrics().as_dict()
            for name, llm in self._loaded().items()
            if llm.generates
        }
        for name, text, key in _COUNTERS:
            yield _counter(name, text, {m: f[key] for m, f in figures.items()})
        for name, text, key in _GAUGES:
            yield _gauge(name, text, {m: f[key] for m, f in figures.items()})
        for name, text, keys in _CACHE_COUNTERS:
            yield _counter(
                name, text, {m: sum(f["cache"][key] for key in keys) for m, f in figures.items()}
            )
        for name, text, key in _CACHE_GAUGES:
            yield _gauge(name, text, {m: f["cache"][key] for m, f in figures.items()})
        for name, text, label, entries in _PARTS:
            parts = {
                m: {part: f[key] * scale for part, key, scale in entries}
                for m, f in figures.items()
            }
            yield _parts(name, text, label, parts)
        health = {
            name: float(llm.engine.health().ok)
            for name, llm in self._loaded().items()
            if llm.generates
        }
        yield _gauge("engine_ok", "1: the engine gets on; 0: it is stuck or dead.", health)


def _counter(name: str, text: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"llamaherd_{name}", text, labels=["model_name"])
    for model, value in values.items():
        family.add_metric([model], value)
    return family


def _gauge(name: str, text: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"llamaherd_{name}", text, labels=["model_name"])
    for model, value in values.items():
        family.add_metric([model], value)
    return family


def _parts(name: str, text: str, label: str, values: Mapping[str, Mapping[str, float]]) -> Metric:
    family = CounterMetricFamily(f"llamaherd_{name}", text, labels=["model_name", label])
    for model, parts in values.items():
        for part, value in parts.items():
            family.add_metric([model, part], value)
    return family


class ServerMetrics:
    """The figures of one server."""

    def __init__(self, loaded: Any) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._classes: Tally[int] = Tally()  # waiting for a first token, by priority
        self._recent_ttft: dict[str, RecentTimes] = defaultdict(RecentTimes)
        self._recent_itl: dict[str, RecentTimes] = defaultdict(RecentTimes)
        self.registry.register(_Engines(loaded))
        self.registry.register(_Waiting(self._classes))

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(
                f"llamaherd_{name}_seconds",
                text,
                ["model_name"],
                registry=self.registry,
                buckets=_SECONDS,
            )

        self._ttft = histogram("time_to_first_token", "From the submit to the first token.")
        self._itl = histogram("inter_token_latency", "From token to token, of streamed outputs.")
        self._e2e = histogram("e2e_request_latency", "From the submit to the end.")
        self._queue = histogram("request_queue_time", "From the submit to the first step.")
        self._tpot = histogram(
            "request_time_per_output_token", "Mean of a request, after its first."
        )
        labels = ["model_name"]
        self._prompt = Counter(
            "llamaherd_prompt_tokens", "Of ended requests.", labels, registry=self.registry
        )
        self._cached = Counter(
            "llamaherd_cached_tokens",
            "Of prompt tokens, those that were not computed.",
            labels,
            registry=self.registry,
        )
        self._http = Counter(
            "llamaherd_http_requests",
            "Answered requests.",
            ["path", "status"],
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def answered(self, path: str, status: int) -> None:
        self._http.labels(path, str(status)).inc()

    def waits(self, priority: int, n: int) -> None:
        """So many more requests of a class have no token yet; fewer if n is negative."""
        self._classes[priority] += n

    def token_gap(self, model: str, seconds: float) -> None:
        self._itl.labels(model).observe(seconds)
        self._recent_itl[model].add(seconds)

    def first_token(self, model: str, timing: Timing | None) -> None:
        """One output has begun."""
        if timing is not None and timing.first_token_ns:
            self._recent_ttft[model].add((timing.first_token_ns - timing.submit_ns) * _NS)

    def recent(self, model: str) -> dict[str, dict[str, float | None]]:
        """Quantiles of the last minute, in seconds; None: there was nothing."""
        times = {"ttft": self._recent_ttft[model], "itl": self._recent_itl[model]}
        return {
            name: {"p50": recent.quantile(0.5), "p95": recent.quantile(0.95)}
            for name, recent in times.items()
        }

    def prompt(self, model: str, n_prompt: int, n_cached: int) -> None:
        """A prompt's outputs have ended."""
        self._prompt.labels(model).inc(n_prompt)
        self._cached.labels(model).inc(n_cached)

    def ended(
        self, model: str, timing: Timing | None, n_completion: int, reason: FinishReason
    ) -> None:
        """One output has come to its end."""
        if timing is None or not timing.start_ns:
            return
        self._queue.labels(model).observe((timing.start_ns - timing.submit_ns) * _NS)
        if not timing.first_token_ns:
            return
        self._ttft.labels(model).observe((timing.first_token_ns - timing.submit_ns) * _NS)
        if reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return
        self._e2e.labels(model).observe((timing.last_ns - timing.submit_ns) * _NS)
        if n_completion > 1:
            spent = (timing.last_ns - timing.first_token_ns) * _NS
            self._tpot.labels(model).observe(spent / (n_completion - 1))


class _Waiting(Collector):
    def __init__(self, classes: Mapping[int, int]) -> None:
        self._classes = classes

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "llamaherd_requests_without_token",
            "Requests that have no token yet, by priority.",
            labels=["priority"],
        )
        for priority, n in sorted(self._classes.items()):
            family.add_metric([str(priority)], n)
        yield family
