"""What takes part in a benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.scenario import BenchmarkRequest


@dataclass(frozen=True, kw_only=True)
class ContestantConfig:
    """What every contestant is given alike.

    Attributes:
      model: Path of a GGUF file.
      n_threads: CPU threads.
      n_seqs: Requests that are asked at once.
      n_ctx: Tokens of all of them together.
    """

    model: str
    n_threads: int
    n_seqs: int
    n_ctx: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Unavailable(Exception):
    """A contestant that is not installed here; the message says what it needs."""


class InProcessEngine(Protocol):
    """An engine that is called, in a process of its own; loaded when it is made.

    Attributes:
      version: Of what computes.
    """

    version: str

    async def ask(self, ask: BenchmarkRequest) -> RequestMeasurement:
        """The answer with the moments at which its tokens came; an error is in it."""

    def sample(self) -> dict[str, float]:
        """Its gauges now; empty if it has none."""

    def close(self) -> None:
        """Ends it."""
