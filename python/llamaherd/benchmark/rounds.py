"""Interleaved rounds of one scenario over all contestants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamaherd.benchmark.contestant_pool import ContestantPool, RunResult
from llamaherd.benchmark.contestants.contestant import ContestantConfig
from llamaherd.benchmark.contestants.servers import Programs
from llamaherd.benchmark.load import scenario_kinds, traces
from llamaherd.benchmark.load.measurements import summary
from llamaherd.benchmark.load.scenario import Scenario
from llamaherd.benchmark.load.scenario_kinds import KINDS, Size

_SPARE_TOKENS = 32  # per request: BOS, and words of more than one token
_WARM_UP_SEED = -1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of a measurement.

    Attributes:
      workload: A key of `KINDS`, or the path of a trace.
      size: Size of the scenario.
      contestants: Names of contestants.
      n_rounds: Rounds per contestant, >= 1.
    """

    workload: str
    size: Size
    contestants: Sequence[str]
    model: str
    n_threads: int
    n_rounds: int
    programs: Programs = field(default_factory=Programs)

    def scenario(self, seed: int) -> Scenario:
        """Create the scenario of a round. Raises InvalidRequestError."""
        if self.workload in KINDS:
            return scenario_kinds.make(self.workload, seed, self.size)
        return traces.load(Path(self.workload), seed, self.size)

    @property
    def name(self) -> str:
        """Name of the workload; of a trace its file name without folder, as results may be
        published."""
        return self.workload if self.workload in KINDS else Path(self.workload).stem

    @property
    def about(self) -> str:
        kind = KINDS.get(self.workload)
        return kind.about if kind else "a recorded trace, scaled"


def measure(plan: Plan, on_round: Callable[[str, int, dict[str, Any]], None]) -> dict[str, Any]:
    """Load all contestants, warm each up with an uncounted scenario, and measure.

    Args:
      on_round: Called with the contestant, the round (from 0) and its `measurements.summary()`.

    Returns:
      JSON values: the workload, per contestant the summaries of all rounds and the gauges of the
        last
      round, and the reasons of absent contestants.

    Raises:
      InvalidRequestError: The scenario cannot be created.
    """
    first = plan.scenario(0)
    n_seqs = first.n_clients
    n_ctx = n_seqs * (first.max_len + _SPARE_TOKENS)
    setup = ContestantConfig(model=plan.model, n_threads=plan.n_threads, n_seqs=n_seqs, n_ctx=n_ctx)
    figures: dict[str, list[dict[str, Any]]] = {}
    samples: dict[str, list[dict[str, float]]] = {}
    with ContestantPool(plan.contestants, setup, plan.programs) as field_:
        for name, i, played in _play(plan, field_):
            figures.setdefault(name, []).append(summary(played.answers))
            samples[name] = _from_begin(played)
            on_round(name, i, figures[name][-1])
        return {
            "workload": plan.name,
            "about": plan.about,
            "n_clients": n_seqs,
            "n_requests": len(list(first.asks)),
            "open_loop": bool(first.arrivals_s),
            "n_threads": plan.n_threads,
            "contestants": {
                name: {
                    "version": contestant.version,
                    "rounds": figures[name],
                    "samples": samples[name],
                }
                for name, contestant in field_.contestants.items()
            },
            "absent": field_.absent,
        }


def _play(plan: Plan, field_: ContestantPool) -> Iterator[tuple[str, int, RunResult]]:
    """All rounds; each starts with another contestant."""
    for name in list(field_.contestants):
        field_.play(name, _warm_up(plan))
    for i in range(plan.n_rounds):
        scenario = plan.scenario(i)
        names = list(field_.contestants)
        first = i % max(len(names), 1)
        for name in names[first:] + names[:first]:
            played = field_.play(name, scenario)
            if played is not None:
                yield name, i, played


def _warm_up(plan: Plan) -> Scenario:
    size = Size(plan.size.n_clients, plan.size.n_clients, plan.size.rate)
    return scenario_kinds.make("unshared", _WARM_UP_SEED, size)


def _from_begin(played: RunResult) -> list[dict[str, float]]:
    """Samples with times relative to the first request."""
    begin_s = min(answer.asked_s for answer in played.answers)
    return [{**sample, "at_s": sample["at_s"] - begin_s} for sample in played.samples]
