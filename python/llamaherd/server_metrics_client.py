"""A running server's figures, read from outside, and what they did between two readings."""

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
    """A server's figures cannot be read."""


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    labels: Mapping[str, str]
    value: float

    def has(self, labels: Mapping[str, str]) -> bool:
        return all(self.labels.get(name) == value for name, value in labels.items())


@dataclass(frozen=True)
class Scrape:
    """One reading of /metrics. Names are without llamaherd_; what is missing is None.

    Attributes:
      at_s: When, on any clock that does not jump.
      samples: Values by name.
    """

    at_s: float
    samples: Mapping[str, Sequence[Sample]]

    @classmethod
    def parse(cls, text: str, at_s: float) -> Scrape:
        """Raises ScrapeError if a text is not what a llamaherd server exports."""
        samples: dict[str, list[Sample]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    name = sample.name.removeprefix(_PREFIX)
                    samples.setdefault(name, []).append(Sample(sample.labels, sample.value))
        except (ValueError, KeyError, IndexError):
            raise ScrapeError("its /metrics are not in Prometheus' format") from None
        if f"# TYPE {_PREFIX}" not in text:
            raise ScrapeError("its /metrics are not those of a llamaherd server")
        return cls(at_s, samples)

    def of(self, name: str, **labels: str) -> list[Sample]:
        return [sample for sample in self.samples.get(name, ()) if sample.has(labels)]

    def value(self, name: str, **labels: str) -> float | None:
        """The sum over all values with these labels."""
        found = self.of(name, **labels)
        return sum(sample.value for sample in found) if found else None

    def values_of(self, name: str, label: str) -> list[str]:
        """What a label says, each once, in order of appearance."""
        return list(dict.fromkeys(s.labels[label] for s in self.of(name) if label in s.labels))


@dataclass(frozen=True)
class MetricsDelta:
    """What a server did between two readings; before is None at the first one."""

    before: Scrape | None
    after: Scrape

    @property
    def seconds(self) -> float:
        return self.after.at_s - self.before.at_s if self.before else 0.0

    def increase(self, name: str, **labels: str) -> float | None:
        """By how much a counter rose. One that fell began anew, at 0."""
        if self.before is None:
            return None
        found = self.after.of(name, **labels)
        if not found:
            return None
        earlier = {_key(sample): sample.value for sample in self.before.of(name, **labels)}
        return sum(_rise(earlier.get(_key(sample), 0.0), sample.value) for sample in found)

    def rate(self, name: str, **labels: str) -> float | None:
        """The same, per second."""
        rise = self.increase(name, **labels)
        return rise / self.seconds if rise is not None and self.seconds > 0 else None

    def rates_by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Rates by what a label says; zeros left out."""
        rates = {}
        for value in self.after.values_of(name, label):
            rate = self.rate(name, **{label: value}, **labels)
            if rate:
                rates[value] = rate
        return rates

    def part(self, name: str, whole: str, **labels: str) -> float | None:
        """One counter's rise over another's."""
        rise, of = self.increase(name, **labels), self.increase(whole, **labels)
        return rise / of if rise is not None and of else None

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Of what a histogram counted in between."""
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
    """A quantile by a histogram, linear within a bucket as Prometheus has it.

    Args:
      q: In [0, 1].
      counts: Upper bounds -> how many were not above; one bound is inf. What lies above the largest
        other bound counts as that bound.

    Returns:
      None if nothing was counted.
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
    """A server whose figures can be read.

    Args:
      url: http://host:port, or https; the scheme and a /v1 at the end may be left out or in.
      api_key: Its API key; None: it needs none.
      timeout_s: For each reading.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 10.0) -> None:
        url = url if "://" in url else f"http://{url}"
        self.url = url.rstrip("/").removesuffix("/v1")
        self._api_key = api_key
        self._timeout_s = timeout_s

    def read(self) -> Scrape:
        """Raises ScrapeError if there is no server, it wants another key, or is no llamaherd."""
        try:
            return Scrape.parse(self._get("/metrics"), time.monotonic())
        except ScrapeError as error:
            raise ScrapeError(f"{self.url}: {error}") from None

    def changed_since(self, before: Scrape) -> MetricsDelta:
        return MetricsDelta(before, self.read())

    def _get(self, path: str) -> str:
        if not self.url.startswith(("http://", "https://")):
            raise ScrapeError("a server's URL begins with http:// or https://")
        try:
            request = urllib.request.Request(self.url + path)
            if self._api_key is not None:
                # Not to where a redirect leads.
                request.add_unredirected_header("Authorization", f"Bearer {self._api_key}")
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                body: bytes = answer.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            raise ScrapeError(_refusal(error.code)) from None
        except urllib.error.URLError as error:
            raise ScrapeError(f"no server answers: {error.reason}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ScrapeError(f"no server answers: {error or type(error).__name__}") from None
        return body.decode(errors="replace")


def _refusal(status: int) -> str:
    if status == 401:
        return "the server wants an API key (--api-key), and not this one"
    if status == 404:
        return "it has no /metrics, so it is no llamaherd server"
    return f"/metrics answers with status {status}"


def readings(server: MetricsClient, interval_s: float) -> Iterator[MetricsDelta | ScrapeError]:
    """What a server did since the reading before, at once and then at intervals, for ever. One that
    fails is said and tried again; the first must succeed.

    Raises:
      ScrapeError: The first one failed.
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
