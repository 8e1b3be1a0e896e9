"""Search for the engine options that suit a workload."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Protocol

from llamaherd._core import LlamaHerdError
from llamaherd.config.params import EngineConfig
from llamaherd.tuning.replay import Measurement
from llamaherd.tuning.search_space import (
    TUNED_OPTIONS,
    EffectiveConfig,
    Objective,
    SearchBounds,
    is_better,
    neighbours,
)

# Maximum runs per comparison. Of two equal configs, one in 70 would win by chance.
N_ROUNDS = 4

# Runs are stopped after this multiple of the best config's time.
_MAX_SLOWDOWN = 3.0


@dataclass
class Trial:
    """Result of one config.

    Attributes:
      runs: Completed runs of the workload.
      verdict: start, better, dropped, failed or stopped.
      ratio: Its cost / the best's cost over their interleaved runs; NaN if there are none.
      error: Error message of a failure.
    """

    config: EngineConfig
    runs: list[Measurement] = field(default_factory=list)
    verdict: str = "stopped"
    ratio: float = math.nan
    error: str = ""

    def median(self) -> Measurement:
        """Median of each figure over the runs."""
        return Measurement(
            **{
                f.name: statistics.median(getattr(run, f.name) for run in self.runs)
                for f in fields(Measurement)
            }
        )


class TuningCandidate(Protocol):
    """An engine that can run the workload."""

    def run(self, limit_s: float) -> Measurement:
        """Run the workload. Raises TimeoutError after limit_s, LlamaHerdError on failure."""

    def close(self) -> None: ...


class _TimeLimitReached(Exception):
    pass


class Tuner:
    """Coordinate descent from one config over `TUNED_OPTIONS`.

    Runs of a candidate and of the best config are interleaved, so that both see the same load of
    the machine. A candidate is dropped after its first run that does not beat every run of the best
    in this comparison. After four runs that do, it becomes the best.

    Args:
      open_contestant: Loads an engine. Two are open at the same time.
      objective: Objective, to be minimized.
      room: Upper bounds of the options.
      limit_s: Total seconds. No run is started that is expected to exceed it.
      clock: Time in seconds.
    """

    def __init__(
        self,
        open_contestant: Callable[[EngineConfig], TuningCandidate],
        objective: Objective,
        room: SearchBounds,
        *,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
        on_trial: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self._open = open_contestant
        self._objective = objective
        self._room = room
        self._clock = clock
        self._end_s = clock() + limit_s
        self._on_trial = on_trial
        self._engine: TuningCandidate | None = None  # engine of the best config
        self._settings: set[EffectiveConfig] = set()
        self._load_s = 0.0  # maximum so far
        self._run_s = 0.0
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.gain = 1.0  # cost at the start / cost of the best, over interleaved runs

    def run(self, start: EngineConfig) -> None:
        """Search until no candidate is better or the time is used up. After an exception,
        KeyboardInterrupt included, `trials` and `best` hold the results so far.

        Raises:
          LlamaHerdError: The start config fails or does not finish in time.
        """
        try:
            self._begin(start)
            helped = True
            while helped:
                helped = False
                for knob in TUNED_OPTIONS:
                    helped |= self._optimize(knob)
        except _TimeLimitReached:
            if self.best is None:
                raise LlamaHerdError(
                    "one run of the workload takes longer than the time limit: increase the limit, "
                    "or use fewer requests"
                ) from None
        finally:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _begin(self, start: EngineConfig) -> None:
        trial = self._new_trial(start)
        self._engine = self._load(trial)
        self._measure(self._engine, trial, math.inf)
        trial.verdict = "start"
        self.best = trial
        self._on_trial(trial)

    def _optimize(self, knob: str) -> bool:
        """Change one option as long as it improves the cost. Returns whether it did."""
        helped = False
        while self._step(knob):
            helped = True
        return helped

    def _step(self, knob: str) -> bool:
        assert self.best is not None
        for config in neighbours(self.best.config, knob, self._room):
            if EffectiveConfig.of(config) not in self._settings and self._try(config):
                return True
        return False

    def _try(self, config: EngineConfig) -> bool:
        self._require_time(self._load_s + 2 * self._run_s)
        trial = self._new_trial(config)
        engine: TuningCandidate | None = None
        try:
            engine = self._load(trial)
            if self._compare(trial, engine):
                self._engine, engine = engine, self._engine
                self.best = trial
        except LlamaHerdError as error:
            trial.verdict, trial.error = "failed", str(error)
        finally:
            if engine is not None:
                engine.close()
        self._on_trial(trial)
        return self.best is trial

    def _compare(self, trial: Trial, engine: TuningCandidate) -> bool:
        assert self.best is not None
        assert self._engine is not None
        best_costs: list[float] = []
        costs: list[float] = []
        for _ in range(N_ROUNDS):
            self._require_time(2 * self._run_s)
            best = self._measure(self._engine, self.best, math.inf)
            best_costs.append(self._objective.cost(best))
            try:
                measured = self._measure(engine, trial, _MAX_SLOWDOWN * best.seconds)
            except TimeoutError:
                trial.verdict = "dropped"
                return False
            costs.append(self._objective.cost(measured))
            trial.ratio = statistics.median(costs) / statistics.median(best_costs)
            if not is_better(costs, best_costs):
                trial.verdict = "dropped"
                return False
        trial.verdict = "better"
        self.gain /= trial.ratio
        return True

    def _new_trial(self, config: EngineConfig) -> Trial:
        trial = Trial(config)
        self.trials.append(trial)
        self._settings.add(EffectiveConfig.of(config))
        return trial

    def _load(self, trial: Trial) -> TuningCandidate:
        begin_s = self._clock()
        engine = self._open(trial.config)
        self._load_s = max(self._load_s, self._clock() - begin_s)
        return engine

    def _measure(self, engine: TuningCandidate, trial: Trial, limit_s: float) -> Measurement:
        begin_s = self._clock()
        left_s = self._end_s - begin_s
        try:
            measured = engine.run(min(limit_s, left_s))
        except TimeoutError:
            if left_s <= limit_s:
                raise _TimeLimitReached from None
            raise
        self._run_s = max(self._run_s, self._clock() - begin_s)
        trial.runs.append(measured)
        return measured

    def _require_time(self, seconds: float) -> None:
        if self._clock() + seconds > self._end_s:
            raise _TimeLimitReached
