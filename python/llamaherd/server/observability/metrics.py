"""Prometheus metrics. Names and units follow vLLM where the meaning is the same."""

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
from llamaherd.server.observability.recent_quantiles import RecentQuantiles

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
_NS = 1e-9

# Engine metrics: name, help, key. Times in seconds; totals since the engine was created.
_COUNTERS = (
    ("decode_rows", "Rows of requests that decode.", "n_decode_rows"),
    ("prefill_rows", "Rows of prompt tokens.", "n_prefill_rows"),
    ("decode_calls", "Model calls with at least one row that decodes.", "n_decode_calls"),
    ("prefill_calls", "Model calls with prompt tokens only.", "n_prefill_calls"),
    ("generation_tokens", "Output tokens.", "n_output_tokens"),
    ("num_preemptions", "Running requests that were preempted.", "n_preempted"),
    ("requests_shed", "Requests ended for a deadline before prefill.", "n_shed"),
    ("draft_tokens", "Draft tokens proposed by prompt lookup.", "n_drafted"),
    ("draft_tokens_accepted", "Draft tokens accepted.", "n_draft_accepted"),
)
_GAUGES = (
    ("num_requests_running", "Running requests.", "n_running"),
    ("num_requests_waiting", "Queued requests.", "n_waiting"),
    ("max_num_seqs", "Requests that can run at once.", "n_seqs"),
    ("kv_cells", "Cells of the KV cache.", "n_cells"),
    ("kv_cells_used", "Cells in use, including cached prefixes.", "n_cells_used"),
    ("kv_cells_reserved", "Cells reserved for running requests.", "n_cells_reserved"),
    ("batch_utilisation", "Decoding requests per step, as a share of max_num_seqs.",
     "batch_utilisation"),
    ("time_per_token_seconds", "Model time per output token.", "time_per_token_s"),
    (
        "slowdown_ratio",
        "Duration of model calls relative to an idle machine.",
        "slowdown_ratio",
    ),
)  # fmt: skip
_CACHE_COUNTERS = (
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", ("n_looked_up",)),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache.",
     ("n_from_running", "n_from_finished", "n_from_in_flight", "n_from_ram", "n_from_disk")),
    ("prefix_cache_evictions", "Cached tokens evicted from the KV cache.",
     ("n_evicted_for_cells", "n_evicted_for_holders", "n_evicted_by_clear")),
)  # fmt: skip
_CACHE_GAUGES = (
    (
        "kv_cells_reclaimable",
        "Cells of cached prefixes that no running request uses.",
        "n_cells_reclaimable",
    ),
    ("prefix_cache_ram_bytes", "Host memory of evicted prefixes.", "n_bytes_ram"),
    ("prefix_cache_disk_bytes", "Disk space of evicted prefixes.", "n_bytes_disk"),
    ("prefix_cache_hit_rate", "Share of prompt tokens found in the prefix cache.", "hit_rate"),
)
_PARTS: tuple[tuple[str, str, str, list[tuple[str, str, float]]], ...] = (
    (
        "step_seconds",
        "Engine time by phase.",
        "part",
        [(part, f"{part}_ns", _NS) for part in ("decode", "prefill", "sample", "host")],
    ),
    (
        "engine_errors",
        "Failed model calls, by kind.",
        "kind",
        [
            (kind, f"n_{kind}", 1)
            for kind in ("no_room", "invalid_batch", "aborted", "failed", "poisoned_rows")
        ],
    ),
    (
        "requests_finished",
        "Finished requests, by reason.",
        "finished_reason",
        [
            (reason, f"n_finished_{reason}", 1)
            for reason in ("stop", "length", "cancelled", "deadline", "error")
        ],
    ),
)


class _Engines(Collector):
    """Counters of the engines, read at scrape time."""

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
        yield _gauge("engine_ok", "1: the engine makes progress; 0: it is stuck or dead.", health)


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
    """The metrics of one server."""

    def __init__(self, loaded: Any) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._classes: Tally[int] = Tally()  # requests without a first token, by priority
        self._recent_ttft: dict[str, RecentQuantiles] = defaultdict(RecentQuantiles)
        self._recent_itl: dict[str, RecentQuantiles] = defaultdict(RecentQuantiles)
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

        self._ttft = histogram("time_to_first_token", "Seconds from submission to the first token.")
        self._itl = histogram("inter_token_latency", "Seconds between tokens of streamed outputs.")
        self._e2e = histogram("e2e_request_latency", "Seconds from submission to the end.")
        self._queue = histogram("request_queue_time", "Seconds from submission to the first step.")
        self._tpot = histogram(
            "request_time_per_output_token",
            "Mean seconds per output token of a request, after the first.",
        )
        labels = ["model_name"]
        self._prompt = Counter(
            "llamaherd_prompt_tokens",
            "Prompt tokens of finished requests.",
            labels,
            registry=self.registry,
        )
        self._cached = Counter(
            "llamaherd_cached_tokens",
            "Prompt tokens of finished requests that were reused from the cache.",
            labels,
            registry=self.registry,
        )
        self._http = Counter(
            "llamaherd_http_requests",
            "HTTP requests answered.",
            ["path", "status"],
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def answered(self, path: str, status: int) -> None:
        self._http.labels(path, str(status)).inc()

    def waits(self, priority: int, n: int) -> None:
        """Add `n` (may be negative) to the requests of a class without a token."""
        self._classes[priority] += n

    def token_gap(self, model: str, seconds: float) -> None:
        self._itl.labels(model).observe(seconds)
        self._recent_itl[model].add(seconds)

    def first_token(self, model: str, timing: Timing | None) -> None:
        """Record the first token of an output."""
        if timing is not None and timing.first_token_ns:
            self._recent_ttft[model].add((timing.first_token_ns - timing.submit_ns) * _NS)

    def recent(self, model: str) -> dict[str, dict[str, float | None]]:
        """Quantiles of the last minute, in seconds; None: no samples."""
        times = {"ttft": self._recent_ttft[model], "itl": self._recent_itl[model]}
        return {
            name: {"p50": recent.quantile(0.5), "p95": recent.quantile(0.95)}
            for name, recent in times.items()
        }

    def prompt(self, model: str, n_prompt: int, n_cached: int) -> None:
        """Record a prompt whose outputs have finished."""
        self._prompt.labels(model).inc(n_prompt)
        self._cached.labels(model).inc(n_cached)

    def ended(
        self, model: str, timing: Timing | None, n_completion: int, reason: FinishReason
    ) -> None:
        """Record a finished output."""
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
            "Requests without a first token, by priority.",
            labels=["priority"],
        )
        for priority, n in sorted(self._classes.items()):
            family.add_metric([str(priority)], n)
        yield family
