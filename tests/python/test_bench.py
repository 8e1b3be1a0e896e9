"""``llamaherd bench``: what is asked, who is asked, and what is made of the figures."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from llamaherd import InvalidRequestError
from llamaherd.benchmark.contestant_pool import (
    ContestantPool,
    HttpContestant,
    InProcessContestant,
    RunResult,
)
from llamaherd.benchmark.contestants import process_log
from llamaherd.benchmark.contestants.contestant import ContestantConfig, Unavailable
from llamaherd.benchmark.contestants.servers import Programs, Server
from llamaherd.benchmark.load import scenario_kinds, traces
from llamaherd.benchmark.load.arrival import closed_loop, open_loop, poisson
from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.scenario import Scenario, n_words
from llamaherd.benchmark.load.scenario_kinds import KINDS, Size
from llamaherd.benchmark.reporting import figures, report, tables
from llamaherd.benchmark.rounds import Plan, measure
from llamaherd.percentiles import percentile
from test_cli import ENVIRONMENT, WAIT_S, command, run

pytestmark = pytest.mark.slow

SMALL = Size(3, 2, 50.0)


@pytest.mark.parametrize("name", KINDS)
def test_a_scenario_is_the_same_for_the_same_seed_and_new_for_another(name: str) -> None:
    one = scenario_kinds.make(name, 1, SMALL)
    assert scenario_kinds.make(name, 1, SMALL) == one
    other = scenario_kinds.make(name, 2, SMALL)
    assert not {ask.prompt for ask in one.asks} & {ask.prompt for ask in other.asks}
    assert Scenario.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert len(one.chains) == 3
    assert len(one.arrivals_s) in (0, 3)


def test_a_scenario_has_the_lengths_that_it_says() -> None:
    chat = scenario_kinds.make("chat", 0, Size(4, 2, 1.0))
    prompts = [ask.prompt.split() for ask in chat.asks]
    assert {len(prompt) for prompt in prompts} == {664}
    assert len({tuple(prompt[:640]) for prompt in prompts}) == 1
    assert len({tuple(prompt[640:]) for prompt in prompts}) == 4
    assert chat.max_len == 664 + 64
    unshared = scenario_kinds.make("unshared", 0, Size(4, 2, 1.0))
    assert len({tuple(ask.prompt.split()[:8]) for ask in unshared.asks}) == 4
    for chain in scenario_kinds.make("agents", 0, SMALL).chains:
        for before, after in itertools.pairwise(chain):
            assert after.prompt.startswith(before.prompt)


def test_words_are_one_token_each(engine: Any) -> None:
    scenario = scenario_kinds.make("unshared", 0, Size(8, 2, 1.0))
    for ask in scenario.asks:
        assert abs(len(engine.tokenize(ask.prompt)) - n_words(ask.prompt)) <= 2


@pytest.mark.parametrize(
    ("name", "size"), [("x", SMALL), ("chat", Size(0, 1, 1.0)), ("chat", Size(1, 1, 0.0))]
)
def test_a_scenario_that_cannot_be_is_refused(name: str, size: Size) -> None:
    with pytest.raises(InvalidRequestError):
        scenario_kinds.make(name, 0, size)


def test_mooncake_keeps_what_prompts_share(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": 0, "input_length": 1024, "output_length": 10, "hash_ids": [0, 1]},
        {
            "timestamp": 500,
            "input_length": 4000,
            "output_length": 512,
            "hash_ids": [0, *range(2, 9)],
        },
        {"timestamp": 2000, "input_length": 600, "output_length": 1, "hash_ids": [0, 9]},
    ]
    trace.write_text("\n".join(map(json.dumps, lines)))
    scenario = traces.load(trace, 0, Size(3, 2, 1.0))
    asks = list(scenario.asks)
    assert [n_words(ask.prompt) for ask in asks] == [512, 2000, 300]
    assert [ask.max_tokens for ask in asks] == [2, 128, 1]
    shared = [ask.prompt.split()[:256] for ask in asks]
    assert shared[0] == shared[1] == shared[2]
    assert asks[0].prompt.split()[256:] != asks[1].prompt.split()[256:512]
    assert scenario.arrivals_s == (0.0, 0.5, 2.0)
    assert traces.load(trace, 0, Size(2, 2, 1.0)).arrivals_s == (0.0, 1.0)


def test_azure_has_lengths_and_moments(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = ["2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109"]
    trace.write_text("\r\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    scenario = traces.load(trace, 0, Size(2, 2, 4.0))
    assert [n_words(ask.prompt) for ask in scenario.asks] == [374, 396]
    assert [ask.max_tokens for ask in scenario.asks] == [44, 109]
    assert scenario.arrivals_s == (0.0, 0.25)


@pytest.mark.parametrize("text", ["", "{}", "a,b\n1,2", "{", '{"timestamp": 0}'])
def test_what_is_no_trace_is_refused(text: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(text)
    with pytest.raises(InvalidRequestError):
        traces.load(trace, 0, SMALL)
    with pytest.raises(InvalidRequestError, match="cannot read"):
        traces.load(tmp_path / "none", 0, SMALL)


def test_loops_ask_as_they_say() -> None:
    running, most, order = 0, 0, []

    async def ask(name: str) -> RequestMeasurement:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        order.append(name)
        await asyncio.sleep(0.005)
        running -= 1
        return RequestMeasurement(0.0)

    chains = [[f"{chain}{i}" for i in range(3)] for chain in "abcd"]
    assert len(asyncio.run(closed_loop(ask, chains, 2))) == 12
    assert most == 2
    for chain in chains:
        assert [name for name in order if name in chain] == chain
    running, most = 0, 0
    assert len(asyncio.run(open_loop(ask, list("abcde"), [0.0] * 5))) == 5
    assert most == 5
    moments, again = (list(itertools.islice(poisson(10.0, 1), 2000)) for _ in range(2))
    assert moments[0] == 0
    assert moments == sorted(moments) == again
    assert 180 < moments[-1] < 220


@pytest.fixture
def engine_load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What the scripts in bench/ share."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "bench")
    return importlib.import_module("engine_load")


def test_arrivals_within_a_time(engine_load: ModuleType) -> None:
    moments = list(itertools.islice(poisson(10.0, 1), 2000))
    within = engine_load.arrivals_within(10.0, 50.0, seed=1)
    assert within == moments[1 : len(within) + 1]
    assert within[-1] < 50 <= moments[len(within) + 1]
    assert engine_load.arrivals_within(10.0, 0.0, seed=1) == []


def test_a_bar_is_not_met_without_data(
    engine_load: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for values, result in (([], "NOT MET"), ([1.0], "met"), ([3.0], "NOT MET")):
        engine_load.verdict("p99", percentile(values, 99), most=2)
        assert capsys.readouterr().out.endswith(f"<= 2: {result}\n")
    engine_load.verdict("p50", percentile([], 50), least=0)
    assert capsys.readouterr().out.endswith(">= 0: NOT MET\n")


def made_up(tokens_per_s: dict[str, list[float]]) -> dict[str, Any]:
    def figures_of(value: float) -> dict[str, Any]:
        ms = {"mean": 1e3 / value, "p50": 1e3 / value, "p90": 2.0, "p99": 3.0, "max": 4.0}
        return {
            "n_errors": 0,
            "tokens_per_s": value,
            **dict.fromkeys(("ttft_ms", "itl_ms", "e2e_ms"), ms),
        }

    return {
        "workload": "chat",
        "about": "a test",
        "n_clients": 8,
        "n_requests": 32,
        "open_loop": False,
        "n_threads": 2,
        "contestants": {
            name: {"version": f"{name} 1", "rounds": [figures_of(v) for v in values], "samples": []}
            for name, values in tokens_per_s.items()
        },
        "absent": {"openvino": "needs the package openvino-genai"},
    }


def test_ratios_are_of_the_same_round_and_kind() -> None:
    run = made_up(
        {
            "llamaherd": [100.0, 200.0, 300.0],
            "one-at-a-time": [50.0, 50.0, 50.0],
            "llama-server": [10.0, 20.0, 10.0],
            "llamaherd-server": [80.0, 80.0, 80.0],
        }
    )
    gain = figures.gain(run, "one-at-a-time")
    assert gain == figures.Spread(4.0, 2.0, 6.0)
    assert figures.gain(run, "llama-server") == figures.Spread(8.0, 4.0, 8.0)
    assert figures.gain(made_up({"openvino": [1.0]}), "openvino") is None
    header, *body = tables.rows(run)
    assert all(len(row) == len(header) for row in body)
    assert body[1][1:3] == ("50 (50 to 50)", "4.00 (2.00 to 6.00)")
    assert body[0][2] == ""


def test_a_report_has_tables_pictures_and_who_is_better(tmp_path: Path) -> None:
    machine = {
        "date": "2026-01-01", "cpu": "a processor", "n_cores": 2, "memory_gib": 24.0,
        "cpu_features": ["AVX2"], "cpu_kernels": "avx2", "os": "Linux", "python": "3.11",
        "llama_cpp": "1",
    }  # fmt: skip
    runs = [
        {
            **made_up({"llamaherd": [100.0], "one-at-a-time": [20.0], "openvino": [150.0]}),
            "n_clients": n,
        }
        for n in (1, 4, 8)
    ]
    files = [tmp_path / f"{i}.json" for i in range(2)]
    for file, some in zip(files, (runs[:2], runs[2:]), strict=True):
        file.write_text(json.dumps({"environment": machine, "model": "m.gguf", "runs": some}))
    done = run("bench-report", *map(str, files), "--output", str(tmp_path / "REPORT.md"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "REPORT.md").read_text()
    assert "| one-at-a-time | 20 (20 to 20) | 5.00 (5.00 to 5.00) |" in text
    assert "## chat, 8 at once" in text
    assert "- openvino (chat, 8 at once): output tokens per second 150.0 against 100.0" in text
    assert "openvino is absent: needs the package" in text
    for name in ("single_and_batched", "throughput", "concurrency"):
        assert f"(REPORT/{name}.svg)" in text
        picture = (tmp_path / "REPORT" / f"{name}.svg").read_text()
        assert "<svg" in picture
        assert len(picture) < 100_000
    before = {p: p.read_bytes() for p in (tmp_path / "REPORT").iterdir()}
    report.write(report.load(files), tmp_path / "REPORT.md")
    assert {p: p.read_bytes() for p in (tmp_path / "REPORT").iterdir()} == before
    files[1].write_text(json.dumps({"environment": machine, "model": "other.gguf", "runs": []}))
    with pytest.raises(InvalidRequestError, match=r"other\.gguf"):
        report.load(files)
    files[1].write_text("[]")
    with pytest.raises(InvalidRequestError, match="must be a result file"):
        report.load(files)


def test_contestants_answer_every_request_in_full(model_path: Path) -> None:
    plan = Plan(
        workload="code-completion",
        size=Size(2, 2, 4.0),
        contestants=("llamaherd", "one-at-a-time", "llamaherd-server", "llama-server"),
        model=str(model_path),
        n_threads=1,
        n_rounds=2,
        programs=Programs(llama_server=Path("/none")),
    )
    told: list[tuple[str, int]] = []
    result = measure(plan, lambda name, i, _: told.append((name, i)))
    assert result["absent"].keys() == {"llama-server"}
    assert [name for name, i in told if i == 0] == [
        "llamaherd",
        "one-at-a-time",
        "llamaherd-server",
    ]
    assert [name for name, i in told if i == 1] == [
        "one-at-a-time",
        "llamaherd-server",
        "llamaherd",
    ]
    for contestant in result["contestants"].values():
        for figures_ in contestant["rounds"]:
            assert (figures_["n_requests"], figures_["n_errors"]) == (8, 0)
            assert figures_["n_completion_tokens"] == 8 * 24
    samples = result["contestants"]["llamaherd"]["samples"]
    found = samples[-1]["n_found"] - samples[0]["n_found"]
    assert found > 3 * 640  # all but the developers' own text of the second to the fourth request
    assert max(s["n_cells_alone"] for s in samples) >= max(s["n_cells"] for s in samples)
    alone = result["contestants"]["one-at-a-time"]["samples"]
    assert alone[-1]["n_found"] == 0
    json.dumps(result)


def test_an_engine_that_cannot_load_is_absent(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    setup = ContestantConfig(model=str(broken), n_threads=1, n_seqs=1, n_ctx=64)
    with ContestantPool(("llamaherd", "llamaherd-server"), setup, Programs()) as field:
        assert not field.contestants
        assert "broken.gguf" in field.absent["llamaherd"]
        assert "exited with status 1" in field.absent["llamaherd-server"]


@pytest.mark.parametrize("dying", ["llamaherd", "llamaherd-server"])
def test_a_contestant_that_dies_leaves_the_others_their_rounds(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, dying: str
) -> None:
    plan = Plan(
        workload="unshared",
        size=Size(2, 2, 1.0),
        contestants=("one-at-a-time", dying),
        model=str(model_path),
        n_threads=1,
        n_rounds=3,
    )
    play = ContestantPool.play
    told: list[tuple[str, int]] = []

    def kill_and_play(self: ContestantPool, name: str, scenario: Scenario) -> RunResult | None:
        if name == dying and told:
            one = self.contestants[name]
            assert isinstance(one, InProcessContestant | HttpContestant)
            process = one.process if isinstance(one, InProcessContestant) else one.server.process
            process.kill()
            process.wait()
        return play(self, name, scenario)

    monkeypatch.setattr(ContestantPool, "play", kill_and_play)
    result = measure(plan, lambda name, i, _: told.append((name, i)))
    assert told == [("one-at-a-time", i) for i in range(3)]
    assert result["absent"].keys() == {dying}
    assert "exited with status -9" in result["absent"][dying]
    assert list(result["contestants"]) == ["one-at-a-time"]


def test_a_server_that_ends_is_absent_with_its_last_word() -> None:
    with pytest.raises(Unavailable, match="exited with status 3: no such thing"):
        Server([sys.executable, "-c", "print('no such thing'); exit(3)"], 9, "x")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-w", "x"), "must be one of chat"),
        (("-c", "x"), "must be one of llamaherd"),
        (("--trace", "none"), "cannot read none"),
        (("--rounds", "0"), "Invalid value for '--rounds'"),
        (("--clients", "0"), "clients must be >= 1"),
        (("--rate", "-1"), "rate must be > 0"),
    ],
)
def test_what_bench_cannot_do_is_said_at_once(args: tuple[str, ...], message: str) -> None:
    done = run("bench", *args)
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.split())


def test_the_command_writes_a_table_and_json(model_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    args = ["-w", "unshared", "-c", "llamaherd", "-c", "llama-server", "--rounds", "1"]
    args += ["--clients", "2", "--requests", "2", "--threads", "1", "--output", str(output)]
    done = run("bench", *args, "--model", str(model_path), "--llama-server", "/none")
    assert done.returncode == 0, done.stderr
    assert "llama-server is absent" in done.stdout
    results = json.loads(output.read_text())
    assert results["model"] == model_path.name
    assert results["environment"]["n_cores"] >= 1
    (only,) = results["runs"]
    assert only["contestants"]["llamaherd"]["rounds"][0]["n_completion_tokens"] == 128


def test_the_command_replays_a_trace(model_path: Path, tmp_path: Path) -> None:
    trace, output = tmp_path / "trace.csv", tmp_path / "results.json"
    rows = ["2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:46.9805900,396,109"]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    args = ["--trace", str(trace), "-c", "llamaherd", "--rounds", "1", "--requests", "2"]
    args += ["--threads", "1", "--output", str(output), "--model", str(model_path)]
    done = run("bench", *args)
    assert done.returncode == 0, done.stderr
    assert "trace, open loop: a recorded trace, scaled" in done.stdout
    (only,) = json.loads(output.read_text())["runs"]
    assert only["workload"] == "trace"
    assert only["contestants"]["llamaherd"]["rounds"][0]["n_errors"] == 0


def test_a_signal_while_a_process_starts_does_not_lose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def start_and_signal(*arguments: Any) -> None:
        start(*arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(subprocess.Popen, "_execute_child", start_and_signal)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with pytest.raises(SystemExit):
            process_log.LoggedProcess([sys.executable, "-c", "import time; time.sleep(600)"])
    finally:
        signal.signal(signal.SIGTERM, before)
    (process,) = process_log._running
    process_log._end_all()
    assert process.returncode == -signal.SIGTERM
    assert not process_log._running


def test_a_command_that_is_terminated_leaves_no_process(model_path: Path) -> None:
    args = ["-w", "chat", "-c", "llamaherd", "-c", "llamaherd-server", "--threads", "1"]
    process = subprocess.Popen(
        [command(), "bench", *args, "--model", str(model_path)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + WAIT_S
    while len(started := children.read_text().split()) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(WAIT_S) == 128 + signal.SIGTERM
    assert not [pid for pid in started if Path("/proc", pid).exists()]
