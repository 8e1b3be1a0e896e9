"""Tuning: the search on made-up engines, and the whole on a tiny model."""

from __future__ import annotations

import dataclasses
import itertools
import math
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from llamaherd import BatchEngine, EngineConfig, InvalidRequestError, LlamaHerdError, ModelLoadError
from llamaherd.percentiles import percentile
from llamaherd.tuning.replay import Measurement, Replayer, replay
from llamaherd.tuning.search_space import (
    OBJECTIVES,
    PRESETS,
    TUNED_OPTIONS,
    EffectiveConfig,
    SearchBounds,
    is_better,
    neighbours,
)
from llamaherd.tuning.tuner import N_ROUNDS, Tuner
from llamaherd.tuning.workload import Workload
from test_cli import ENVIRONMENT, WAIT_S, command, records, run
from tiny_models import write

pytestmark = pytest.mark.slow

START = EngineConfig(n_threads=2)
ROOM = SearchBounds(n_threads=4, max_seqs=64, token_budget=65536)
THROUGHPUT = OBJECTIVES["throughput"]


def measurement(ms_per_token: float = 10.0) -> Measurement:
    return Measurement(
        n_requests=4,
        n_tokens=100,
        n_cached=0,
        seconds=0.1 * ms_per_token,
        tokens_per_s=1e3 / ms_per_token,
        ttft_p50_ms=50.0,
        ttft_p99_ms=100.0,
        itl_p50_ms=5.0,
        itl_p99_ms=10.0,
    )


class FakeEngines:
    """Engines whose costs are a function of their setting; they say how long things took."""

    def __init__(self, cost: Callable[[EffectiveConfig], float], noise: Sequence[float] = (1.0,)):
        self.now_s = 0.0
        self.n_open = 0
        self.n_runs = 0
        self.interrupt_at: int | None = None
        self.noise = noise
        self._cost = cost

    def open(self, config: EngineConfig) -> FakeEngine:
        self.now_s += 2
        cost = self._cost(EffectiveConfig.of(config))
        if math.isnan(cost):
            raise ModelLoadError("no memory")
        self.n_open += 1
        return FakeEngine(self, cost)

    def clock(self) -> float:
        return self.now_s

    def tuner(self, limit_s: float = 1e9) -> Tuner:
        return Tuner(self.open, THROUGHPUT, ROOM, limit_s=limit_s, clock=self.clock)


class FakeEngine:
    def __init__(self, engines: FakeEngines, cost: float) -> None:
        self.engines = engines
        self.cost = cost
        self.noise = itertools.cycle(engines.noise)
        self.closed = False

    def run(self, limit_s: float) -> Measurement:
        self.engines.n_runs += 1
        if self.engines.n_runs == self.engines.interrupt_at:
            raise KeyboardInterrupt
        measured = measurement(self.cost * next(self.noise))
        self.engines.now_s += min(limit_s, measured.seconds)
        if measured.seconds > limit_s:
            raise TimeoutError
        return measured

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.engines.n_open -= 1


def far_from(best: EffectiveConfig) -> Callable[[EffectiveConfig], float]:
    """A cost with one minimum, and a way down to it."""

    def cost(setting: EffectiveConfig) -> float:
        pairs = zip(vars(setting).values(), vars(best).values(), strict=True)
        return 10 + sum(abs(math.log2(1 + a) - math.log2(1 + b)) for a, b in pairs)

    return cost


@pytest.mark.parametrize(
    "best",
    [
        EffectiveConfig(8, 1024, 512, 2, 1),
        EffectiveConfig(16, 2048, 512, 4, 50),
        EffectiveConfig(1, 512, 64, 1, 0),
        EffectiveConfig(32, 8192, 2048, 3, 0),
    ],
)
def test_the_search_finds_the_bottom_and_tries_nothing_twice(best: EffectiveConfig) -> None:
    engines = FakeEngines(far_from(best))
    tuner = engines.tuner()
    tuner.run(START)
    assert tuner.best is not None
    assert EffectiveConfig.of(tuner.best.config) == best
    settings = [EffectiveConfig.of(trial.config) for trial in tuner.trials]
    assert len(set(settings)) == len(settings)
    assert engines.n_open == 0
    start = far_from(best)(EffectiveConfig.of(START))
    assert tuner.gain == pytest.approx(start / 10)
    assert all(trial.ratio >= 1 for trial in tuner.trials if trial.verdict == "dropped")
    accepted = [trial for trial in tuner.trials if trial.verdict == "better"]
    assert all(len(trial.runs) >= N_ROUNDS for trial in accepted)
    refused = [trial for trial in tuner.trials if trial.verdict == "dropped"]
    assert all(len(trial.runs) <= 1 for trial in refused)


def test_what_is_better_by_less_than_the_noise_is_not_taken() -> None:
    engines = FakeEngines(lambda setting: 10 - 0.01 * setting.max_seqs, noise=(0.9, 1.0, 1.1))
    tuner = engines.tuner()
    tuner.run(START)
    assert tuner.best is tuner.trials[0]
    assert tuner.gain == 1.0


def test_each_run_has_to_be_below_each_of_the_others() -> None:
    assert is_better([1.0, 2.0], [2.1, 3.0])
    assert not is_better([1.0, 2.1], [2.1, 3.0])
    assert not is_better([1.0], [1.0])


def test_a_config_that_cannot_be_loaded_is_left_out() -> None:
    engines = FakeEngines(lambda s: math.nan if s.max_seqs > 8 else 10 + abs(s.max_seqs - 4))
    tuner = engines.tuner()
    tuner.run(START)
    assert tuner.best is not None
    assert EffectiveConfig.of(tuner.best.config).max_seqs == 4
    failed = [trial for trial in tuner.trials if trial.verdict == "failed"]
    assert {trial.error for trial in failed} == {"no memory"}
    assert engines.n_open == 0


def test_a_run_that_takes_far_too_long_is_not_waited_for() -> None:
    engines = FakeEngines(lambda setting: 10.0 if setting == EffectiveConfig.of(START) else 1e6)
    tuner = engines.tuner()
    tuner.run(START)
    assert {trial.verdict for trial in tuner.trials[1:]} == {"dropped"}
    assert all(trial.runs == [] for trial in tuner.trials[1:])
    assert engines.now_s < 1000


@pytest.mark.parametrize("limit_s", [5, 8, 17, 40, 100])
def test_it_ends_in_time_with_what_it_has(limit_s: float) -> None:
    engines = FakeEngines(far_from(EffectiveConfig(32, 8192, 2048, 4, 0)))
    tuner = engines.tuner(limit_s)
    tuner.run(START)
    assert tuner.best is not None
    assert tuner.best.verdict in ("start", "better")
    assert engines.now_s <= limit_s
    assert engines.n_open == 0


def test_a_start_that_does_not_work_is_an_error() -> None:
    with pytest.raises(LlamaHerdError, match="takes longer than the time limit"):
        FakeEngines(lambda setting: 1e6).tuner(60).run(START)
    with pytest.raises(ModelLoadError, match="no memory"):
        FakeEngines(lambda setting: math.nan).tuner(60).run(START)


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_what_was_found_outlives_an_interrupt(n: int) -> None:
    engines = FakeEngines(far_from(EffectiveConfig(32, 8192, 2048, 4, 0)))
    engines.interrupt_at = n
    tuner = engines.tuner()
    with pytest.raises(KeyboardInterrupt):
        tuner.run(START)
    assert (tuner.best is None) == (n == 1)
    assert engines.n_open == 0
    assert tuner.trials[-1].verdict == "stopped"


@pytest.mark.parametrize("knob", TUNED_OPTIONS)
@pytest.mark.parametrize(
    "config",
    [
        EngineConfig(),
        EngineConfig(preset="high_throughput", max_seqs=64, n_ubatch=64, poll=100),
        EngineConfig(max_seqs=1, token_budget=64, n_ubatch=64, n_threads=1, poll=0),
    ],
)
def test_neighbours_differ_in_one_thing(config: EngineConfig, knob: str) -> None:
    now = EffectiveConfig.of(config)
    found = list(neighbours(config, knob, ROOM))
    assert found
    for other in found:
        changed = {
            n for n, value in vars(EffectiveConfig.of(other)).items() if getattr(now, n) != value
        }
        if knob == "preset":
            assert changed <= {"max_seqs", "token_budget", "n_ubatch"}
        else:
            assert knob in changed
            assert changed <= {knob, "n_ubatch"}
    if knob == "preset":
        assert [other.preset for other in found] == list(PRESETS)


def test_nothing_is_tried_that_can_make_no_difference() -> None:
    room = SearchBounds.of(Workload.builtin("throughput", n_requests=3))
    assert room.max_seqs == 3
    config = EngineConfig(max_seqs=4, token_budget=1024)
    for knob in ("max_seqs", "token_budget"):
        now = getattr(EffectiveConfig.of(config), knob)
        assert all(
            getattr(EffectiveConfig.of(c), knob) < now for c in neighbours(config, knob, room)
        )


def test_objectives() -> None:
    costs = {name: objective.cost(measurement()) for name, objective in OBJECTIVES.items()}
    assert costs["throughput"] == pytest.approx(10)
    assert costs["latency"] == pytest.approx(100 + 19 * 10)
    assert costs["balanced"] == pytest.approx(math.sqrt(10 * 290))


def test_percentiles_are_values_that_were_seen() -> None:
    assert math.isnan(percentile([], 50))
    assert percentile([3.0], 99) == 3
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, p) for p in (0, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("plain", tmp_path_factory.mktemp("tiny") / "plain.gguf")


TINY = EngineConfig(n_ctx=1024, max_seqs=2, token_budget=128, n_threads=1, warmup=False)


@pytest.mark.parametrize("name", ["throughput", "interactive", "mixed"])
def test_a_replay_runs_every_request_as_it_was_and_alike_each_time(tiny: Path, name: str) -> None:
    workload = Workload.builtin(name, n_requests=4)
    with BatchEngine(tiny, TINY) as engine:
        first, second = replay(engine, workload), replay(engine, workload)
        done = engine.metrics().n_finished_length
    assert done == 8
    for run_ in (first, second):
        assert run_.n_requests == 4
        assert run_.n_tokens == sum(request.n_output for request in workload.requests)
        assert 0 < run_.ttft_p50_ms <= run_.ttft_p99_ms
        assert 0 < run_.itl_p50_ms <= run_.itl_p99_ms
        assert run_.tokens_per_s == pytest.approx(run_.n_tokens / run_.seconds)
        assert (run_.n_cached > 0) == (name != "throughput")


def test_requests_of_one_token_have_no_time_between_tokens(tiny: Path) -> None:
    workload = Workload.builtin("interactive", n_requests=2)
    short = tuple(dataclasses.replace(request, n_output=1) for request in workload.requests)
    with BatchEngine(tiny, TINY) as engine:
        measured = replay(engine, dataclasses.replace(workload, requests=short))
    assert measured.n_tokens == 2
    assert (measured.itl_p50_ms, measured.itl_p99_ms) == (0, 0)
    assert all(objective.cost(measured) > 0 for objective in OBJECTIVES.values())


def test_a_replay_that_takes_too_long_ends_with_an_error(tiny: Path) -> None:
    workload = Workload.builtin("interactive", n_requests=3)
    late = tuple(dataclasses.replace(r, arrival_s=1e6 * i) for i, r in enumerate(workload.requests))
    with BatchEngine(tiny, TINY) as engine:
        for requests in (workload.requests, late):
            with pytest.raises(TimeoutError):
                replay(engine, dataclasses.replace(workload, requests=requests), limit_s=0.001)


def test_a_workload_that_does_not_fit_is_refused(tiny: Path) -> None:
    workload = Workload.builtin("interactive", n_requests=1)
    config = dataclasses.replace(TINY, max_len=64)
    with pytest.raises(InvalidRequestError, match=r"longest request .* \(\d+\); got 64"):
        Replayer(tiny, config, workload)


def test_every_candidate_runs_all_requests(tiny: Path, tmp_path: Path) -> None:
    workload = Workload.builtin("throughput", n_requests=3)
    tuner = Tuner(
        lambda config: Replayer(tiny, config, workload),
        OBJECTIVES["balanced"],
        SearchBounds.of(workload),
        limit_s=600,
    )
    tuner.run(TINY)
    assert len(tuner.trials) > 5
    for trial in tuner.trials:
        assert trial.verdict in ("start", "better", "dropped"), trial.error
        assert [run_.n_requests for run_ in trial.runs] == [3] * len(trial.runs)
    assert tuner.best is not None
    file = tmp_path / "tuned.toml"
    tuner.best.config.to_file(file)
    with BatchEngine(tiny, EngineConfig.from_file(file)) as engine:
        assert replay(engine, workload).n_requests == 3


def test_tune_prints_what_it_tried_and_writes_a_config_that_generate_takes(
    tiny: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.toml"
    TINY.to_file(start)
    jobs = '{"prompt": [5, 6, 7], "max_tokens": 3, "ignore_eos": true}\n' * 3
    workload, tuned = tmp_path / "workload.jsonl", tmp_path / "tuned.toml"
    args = ("-m", tiny, "--jsonl", "--config")
    recorded = run("generate", *args, start, "--record", workload, stdin=jobs)
    assert (recorded.returncode, recorded.stderr) == (0, "")
    for name in (workload, "interactive"):
        done = run(
            *("tune", tiny, "--config", start, "--workload", name, "--requests", "2"),
            *("--objective", "throughput", "--output", tuned),
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "ms per output token" in done.stdout
        assert done.stdout.count("dropped") + done.stdout.count("better ") > 3
        assert done.stdout.count(" best ") >= 1
        assert f"--config {tuned}" in done.stdout
    assert EngineConfig.from_file(tuned).warmup is False
    again = run("generate", *args, tuned, stdin=jobs)
    assert (again.returncode, again.stderr) == (0, "")
    assert [record["usage"]["completion_tokens"] for record in records(again.stdout)] == [3, 3, 3]


def test_ctrl_c_writes_the_best_so_far(tiny: Path, tmp_path: Path) -> None:
    start, tuned = tmp_path / "start.toml", tmp_path / "tuned.toml"
    TINY.to_file(start)
    args = ["--config", start, "--output", tuned, "--workload", "interactive", "--requests", "20"]
    process = subprocess.Popen(
        [command(), "tune", str(tiny), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    end_s = time.monotonic() + WAIT_S
    while not (tuned.exists() and tuned.read_text()) and time.monotonic() < end_s:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (130, "")
    assert " best" in out
    assert EngineConfig.from_file(tuned) == TINY
    assert "# llamaherd " in tuned.read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--objective", "speed"), "must be one of throughput, latency, balanced; got speed"),
        (("--minutes", "0"), "must be > 0; got 0"),
        (("--minutes", "nan"), "must be > 0; got nan"),
        (("--output", "no/folder/tuned.toml"), "cannot write no/folder/tuned.toml"),
        (("--output", "/"), "cannot write /"),
        (("--requests", "0"), "Invalid value for '--requests'"),
        (("--workload", "none.jsonl"), "cannot read none.jsonl: No such file"),
        (("--preset", "fast"), "preset must be one of"),
    ],
)
def test_what_tune_cannot_do_is_said_at_once(args: tuple[str, ...], message: str) -> None:
    done = run("tune", "none.gguf", *args)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert message in done.stderr


def test_a_model_that_is_not_there_is_one_line() -> None:
    done = run("tune", "none.gguf")
    assert done.returncode == 1
    assert done.stderr.startswith("llamaherd: ")
    assert done.stderr.count("\n") == 1
