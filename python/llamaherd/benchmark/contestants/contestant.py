"""Interface of contestants of a benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.scenario import BenchmarkRequest


@dataclass(frozen=True, kw_only=True)
class ContestantConfig:
    """Configuration shared by all contestants.

    Attributes:
      model: Path of a GGUF file.
      n_threads: CPU threads.
      n_seqs: Concurrent requests.
      n_ctx: KV cells shared by all concurrent requests.
    """

    model: str
    n_threads: int
    n_seqs: int
    n_ctx: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Unavailable(Exception):
    """A contestant cannot run; the message names the missing requirement."""


class InProcessEngine(Protocol):
    """An engine called in the worker process; the constructor loads it.

    Attributes:
      version: Name and version of the engine.
    """

    version: str

    async def ask(self, ask: BenchmarkRequest) -> RequestMeasurement:
        """Run a request; returns its token times, or its error."""

    def sample(self) -> dict[str, float]:
        """Current values of its gauges; empty if it has none."""

    def close(self) -> None:
        """Free the engine."""
