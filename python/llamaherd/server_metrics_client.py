"""Client of a running server's /metrics, and differences between two scrapes."""

from __future__ import annotations

import http.client
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from llamaherd._core import LlamaHerdError

_MOST_BYTES = 16 << 20
_PREFIX = "llamaherd_"


class ScrapeError(LlamaHerdError):
    """The metrics of a server cannot be read."""


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    labels: Mapping[str, str]
    value: float

    def has(self, labels: Mapping[str, str]) -> bool:
        return all(self.labels.get(name) == value for name, value in labels.items())


@dataclass(frozen=True)
class Scrape:
    """One scrape of /metrics. Names are without llamaherd_; missing metrics are None.

    Attributes:
      at_s: Time of the scrape on a monotonic clock.
      samples: Values by name.
    """

    at_s: float
    samples: Mapping[str, Sequence[Sample]]

    @classmethod
    def parse(cls, text: str, at_s: float) -> Scrape:
        """Parse a scrape. Raises ScrapeError if the text is not from a llamaherd server."""
        samples: dict[str, list[Sample]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    name = sample.name.removeprefix(_PREFIX)
                    samples.setdefault(name, []).append(Sample(sample.labels, sample.value))
        except (ValueError, KeyError, IndexError):
            raise ScrapeError("/metrics is not in Prometheus' text format") from None
        if f"# TYPE {_PREFIX}" not in text:
            raise ScrapeError("/metrics is not that of a llamaherd server")
        return cls(at_s, samples)

    def of(self, name: str, **labels: str) -> list[Sample]:
        return [sample for sample in self.samples.get(name, ()) if sample.has(labels)]

    def value(self, name: str, **labels: str) -> float | None:
        """Sum of all samples with these labels."""
        found = self.of(name, **labels)
        return sum(sample.value for sample in found) if found else None

    def values_of(self, name: str, label: str) -> list[str]:
        """Distinct values of a label, in order of appearance."""
        return list(dict.fromkeys(s.labels[label] for s in self.of(name) if label in s.labels))


@dataclass(frozen=True)
class MetricsDelta:
    """Difference between two scrapes; `before` is None for the first one."""

    before: Scrape | None
    after: Scrape

    @property
    def seconds(self) -> float:
        return self.after.at_s - self.before.at_s if self.before else 0.0

    def increase(self, name: str, **labels: str) -> float | None:
        """Increase of a counter. A decrease is a reset to 0."""
        if self.before is None:
            return None
        found = self.after.of(name, **labels)
        if not found:
            return None
        earlier = {_key(sample): sample.value for sample in self.before.of(name, **labels)}
        return sum(_rise(earlier.get(_key(sample), 0.0), sample.value) for sample in found)

    def rate(self, name: str, **labels: str) -> float | None:
        """Increase per second."""
        rise = self.increase(name, **labels)
        return rise / self.seconds if rise is not None and self.seconds > 0 else None

    def rates_by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Rates by the values of a label, without zeros."""
        rates = {}
        for value in self.after.values_of(name, label):
            rate = self.rate(name, **{label: value}, **labels)
            if rate:
                rates[value] = rate
        return rates

    def part(self, name: str, whole: str, **labels: str) -> float | None:
        """Increase of one counter divided by that of another."""
        rise, of = self.increase(name, **labels), self.increase(whole, **labels)
        return rise / of if rise is not None and of else None

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Quantile of the observations of a histogram between the scrapes."""
        if self.before is None:
            return None
        after, before = _buckets(self.after, name, labels), _buckets(self.before, name, labels)
        fell = any(count < before.get(bound, 0.0) for bound, count in after.items())
        counts = {
            bound: count - (0.0 if fell else before.get(bound, 0.0))
            for bound, count in after.items()
        }
        return quantile(q, counts)


def quantile(q: float, counts: Mapping[float, float]) -> float | None:
    """Quantile of a histogram, interpolated within a bucket as in Prometheus.

    Args:
      q: In [0, 1].
      counts: Upper bound -> cumulative count; one bound is inf. Observations above the largest
        finite
        bound count as that bound.

    Returns:
      None without observations.
    """
    total = counts.get(math.inf, 0.0)
    if not total > 0:
        return None
    low, n_below = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if bound == math.inf:
            break
        if count >= q * total and count > n_below:
            return low + (bound - low) * max(0.0, q * total - n_below) / (count - n_below)
        low, n_below = bound, count
    return low


def _key(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(sample.labels.items()))


def _rise(before: float, after: float) -> float:
    return after - before if after >= before else after


def _buckets(scrape: Scrape, name: str, labels: Mapping[str, str]) -> dict[float, float]:
    counts: dict[float, float] = {}
    for sample in scrape.of(f"{name}_bucket", **labels):
        bound = float(sample.labels["le"])
        counts[bound] = counts.get(bound, 0.0) + sample.value
    return counts


class MetricsClient:
    """Reads the metrics of a server.

    Args:
      url: http(s)://host:port; the scheme may be omitted, a trailing /v1 is ignored.
      api_key: API key; None: no key.
      timeout_s: Timeout of a scrape in seconds.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 10.0) -> None:
        url = url if "://" in url else f"http://{url}"
        self.url = url.rstrip("/").removesuffix("/v1")
        self._api_key = api_key
        self._timeout_s = timeout_s

    def read(self) -> Scrape:
        """Scrape /metrics. Raises ScrapeError if the server is unreachable, rejects the key, or is
        not
        llamaherd."""
        try:
            return Scrape.parse(self._get("/metrics"), time.monotonic())
        except ScrapeError as error:
            raise ScrapeError(f"{self.url}: {error}") from None

    def changed_since(self, before: Scrape) -> MetricsDelta:
        return MetricsDelta(before, self.read())

    def _get(self, path: str) -> str:
        if not self.url.startswith(("http://", "https://")):
            raise ScrapeError("a server's URL must start with http:// or https://")
        try:
            request = urllib.request.Request(self.url + path)
            if self._api_key is not None:
                # Not sent to redirect targets.
                request.add_unredirected_header("Authorization", f"Bearer {self._api_key}")
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                body: bytes = answer.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            raise ScrapeError(_refusal(error.code)) from None
        except urllib.error.URLError as error:
            raise ScrapeError(f"cannot reach the server: {error.reason}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ScrapeError(f"cannot reach the server: {error or type(error).__name__}") from None
        return body.decode(errors="replace")


def _refusal(status: int) -> str:
    if status == 401:
        return "the server rejects the API key; set a valid one with --api-key"
    if status == 404:
        return "it has no /metrics; it is not a llamaherd server"
    return f"/metrics returned status {status}"


def readings(server: MetricsClient, interval_s: float) -> Iterator[MetricsDelta | ScrapeError]:
    """Yield the difference to the previous scrape, immediately and then at intervals, without end.
    Errors are yielded and the scrape is retried; the first one must succeed.

    Raises:
      ScrapeError: The first scrape failed.
    """
    before = server.read()
    yield MetricsDelta(None, before)
    while True:
        time.sleep(interval_s)
        try:
            after = server.read()
        except ScrapeError as error:
            yield error
        else:
            yield MetricsDelta(before, after)
            before = after
