"""Objectives, tuned options and their search space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.config.params import EngineConfig
from llamaherd.tuning.replay import Measurement
from llamaherd.tuning.workload import Workload

PRESETS = ("low_latency", "balanced", "high_throughput")
TUNED_OPTIONS = ("n_threads", "preset", "max_seqs", "n_ubatch", "token_budget", "poll")

# Output tokens covered by the latency objective.
_N_TOKENS = 20
_POLLS = (0, 1, 50)
_DEFAULT_UBATCH = 512
_MAX_SEQS = 64


@dataclass(frozen=True)
class Objective:
    """An objective, to be minimized.

    Attributes:
      text: Description for the report.
      cost: Value in milliseconds; less is better.
    """

    text: str
    cost: Callable[[Measurement], float]


def _ms_per_token(m: Measurement) -> float:
    return 1e3 / m.tokens_per_s


def _p99_latency_ms(m: Measurement) -> float:
    return m.ttft_p99_ms + (_N_TOKENS - 1) * m.itl_p99_ms


OBJECTIVES = {
    "throughput": Objective("ms per output token of all requests", _ms_per_token),
    "latency": Objective(
        f"p99 ms until {_N_TOKENS} tokens of a request: p99 TTFT + {_N_TOKENS - 1} x p99 ITL",
        _p99_latency_ms,
    ),
    "balanced": Objective(
        "geometric mean of the throughput and the latency objective, ms",
        lambda m: math.sqrt(_ms_per_token(m) * _p99_latency_ms(m)),
    ),
}
OBJECTIVE_OF = {"interactive": "latency", "throughput": "throughput", "mixed": "balanced"}


@dataclass(frozen=True)
class EffectiveConfig:
    """Effective values of the tuned options, to detect equivalent configs."""

    max_seqs: int
    token_budget: int
    n_ubatch: int
    n_threads: int
    poll: int

    @classmethod
    def of(cls, config: EngineConfig) -> EffectiveConfig:
        max_seqs, token_budget = _core.resolve_preset(config._to_core())
        return cls(
            max_seqs,
            token_budget,
            config.n_ubatch or min(_DEFAULT_UBATCH, token_budget),
            config.n_threads or _core.default_n_threads(),
            config.poll,
        )


@dataclass(frozen=True)
class SearchBounds:
    """Upper bounds; larger values have no effect on the workload."""

    n_threads: int
    max_seqs: int
    token_budget: int

    @classmethod
    def of(cls, workload: Workload) -> SearchBounds:
        return cls(
            n_threads=_core.default_n_threads(),
            max_seqs=min(_MAX_SEQS, len(workload.requests)),
            token_budget=sum(request.n_prompt for request in workload.requests),
        )


def neighbours(config: EngineConfig, knob: str, room: SearchBounds) -> Iterator[EngineConfig]:
    """Configs that differ in one option, the most promising first."""
    now = EffectiveConfig.of(config)
    if knob == "preset":
        for preset in PRESETS:
            yield replace(config, preset=preset, max_seqs=None, token_budget=None, n_ubatch=None)
        return
    for value in _values(now, knob, room):
        changes: dict[str, int] = {knob: value}
        if knob == "token_budget" and config.n_ubatch is not None:
            changes["n_ubatch"] = min(config.n_ubatch, value)
        with suppress(InvalidRequestError):  # invalid combination
            yield replace(config, **changes)  # type: ignore[arg-type]


def _values(now: EffectiveConfig, knob: str, room: SearchBounds) -> list[int]:
    value: int = getattr(now, knob)
    if knob == "poll":
        return [poll for poll in _POLLS if poll != value]
    if knob == "n_threads":
        choices = {value // 2, value - 1, value + 1, 2 * value}
        return sorted(n for n in choices if 1 <= n <= room.n_threads)
    most = {"max_seqs": room.max_seqs, "token_budget": room.token_budget}.get(knob, math.inf)
    return [2 * value, value // 2] if value < most else [value // 2]


def is_better(candidate: Sequence[float], best: Sequence[float]) -> bool:
    """Whether every cost of the candidate is below every cost of the best: a difference beyond the
    variation of either."""
    return max(candidate) < min(best)
