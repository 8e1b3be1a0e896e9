"""Recorded workloads: they tell lengths, times and common prefixes, and nothing else."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamaherd import BatchEngine, EngineConfig, InvalidRequestError, RequestOutput, SamplingParams
from llamaherd.tuning.workload import BUILT_IN, Recorder, Request, Workload
from test_cli import ENGINE, run

HEADER = '{"llamaherd_workload": 1, "block_size": 4}'
LINE = {"arrival_s": 0.5, "n_prompt": 6, "n_output": 2, "blocks": [0, 1]}
PARAMS = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def result(model_path: Path) -> RequestOutput:
    """A request's real result; only its times and its number of tokens matter here."""
    config = EngineConfig(n_ctx=512, max_seqs=1, n_threads=1, warmup=False)
    with BatchEngine(model_path, config) as engine:
        return engine.submit("Hi", PARAMS).result()


def file_of(folder: Path, *lines: str | dict[str, Any]) -> Path:
    file = folder / "workload.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    file.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return file


def record(file: Path, prompts: list[list[int]], result: RequestOutput, block_size: int = 4) -> str:
    with Recorder(file, block_size=block_size) as recorder:
        for prompt in prompts:
            recorder.add(prompt, result)
    return file.read_text()


def common_blocks(a: list[int], b: list[int], block_size: int) -> int:
    """Tokens of the blocks that two prompts begin with."""
    n = 0
    while n < min(len(a), len(b)) and a[n : n + block_size] == b[n : n + block_size]:
        n = min(n + block_size, len(a))
    return n


def test_a_record_says_how_long_prompts_were_and_what_they_shared(
    tmp_path: Path, result: RequestOutput
) -> None:
    file = tmp_path / "workload.jsonl"
    with Recorder(file, block_size=4) as recorder:
        recorder.add([1, 2, 3, 4, 5, 6], result)
        recorder.add(np.array([1, 2, 3, 4, 5, 7]), result, priority=2, tenant="acme")
        recorder.add((1, 2, 3, 4, 5, 6), result, tenant="else")
        recorder.add([5, 6, 1, 2], result, tenant="acme")
        recorder.add([1, 2, 3, 4], result, cache_salt="other")
    recorder.close()
    head, *lines = map(json.loads, file.read_text().splitlines())
    assert head == {"llamaherd_workload": 1, "block_size": 4}
    assert [line["blocks"] for line in lines] == [[0, 1], [0, 2], [0, 1], [3], [4]]
    assert [line["n_prompt"] for line in lines] == [6, 6, 6, 4, 4]
    assert {line["n_output"] for line in lines} == {2}
    assert [line.get("tenant") for line in lines] == [None, 0, 1, 0, None]
    assert [line["priority"] for line in lines] == [0, 2, 0, 0, 0]
    loaded = Workload.load(file)
    assert loaded.block_size == 4
    assert loaded.max_len == 8
    assert [r.blocks for r in loaded.requests] == [(0, 1), (0, 2), (0, 1), (3,), (4,)]
    assert (loaded.requests[1].priority, loaded.requests[1].tenant) == (2, 0)
    with pytest.raises(ValueError, match="closed"):
        recorder.add([1], result)


TOKENS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=14), min_size=1, max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=TOKENS, block_size=st.integers(1, 5), seed=st.integers(0, 9))
def test_replayed_prompts_share_what_the_recorded_ones_did(
    tmp_path: Path, result: RequestOutput, prompts: list[list[int]], block_size: int, seed: int
) -> None:
    record(tmp_path / "w.jsonl", prompts, result, block_size)
    workload = Workload.load(tmp_path / "w.jsonl")
    again = workload.prompts(64, seed)
    assert [len(prompt) for prompt in again] == [len(prompt) for prompt in prompts]
    assert all(0 <= token < 64 for prompt in again for token in prompt)
    assert again == workload.prompts(64, seed)
    for i, prompt in enumerate(prompts):
        for j, other in enumerate(prompts[:i]):
            shared = common_blocks(prompt, other, block_size)
            n_common = next(
                (k for k, (a, b) in enumerate(zip(again[i], again[j], strict=False)) if a != b),
                min(len(prompt), len(other)),
            )
            assert n_common == shared


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=TOKENS)
def test_no_token_can_be_told_from_a_record(
    tmp_path: Path, result: RequestOutput, prompts: list[list[int]]
) -> None:
    other_tokens = [[900 + 7 * token for token in prompt] for prompt in prompts]
    texts = []
    for tokens in (prompts, other_tokens):
        lines = record(tmp_path / "w.jsonl", tokens, result).splitlines()
        texts.append([{**json.loads(line), "arrival_s": 0} for line in lines])
    assert texts[0] == texts[1]


def test_a_recorder_is_fed_from_many_threads(tmp_path: Path, result: RequestOutput) -> None:
    file = tmp_path / "w.jsonl"
    with Recorder(file) as recorder:
        threads = [
            threading.Thread(target=lambda i=i: [recorder.add([i, n], result) for n in range(50)])
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(Workload.load(file).requests) == 200


def test_requests_that_gave_nothing_are_left_out(model_path: Path, tmp_path: Path) -> None:
    config = EngineConfig(n_ctx=512, max_seqs=1, n_threads=1, warmup=False)
    with (
        BatchEngine(model_path, config, threaded=False) as engine,
        Recorder(tmp_path / "w.jsonl") as recorder,
    ):
        stream = engine.submit("Hi", PARAMS)
        stream.cancel()
        engine.step()
        recorder.add([1], stream.result())
    assert (tmp_path / "w.jsonl").read_text().count("\n") == 1


def test_a_recorder_needs_a_block_and_a_file(tmp_path: Path) -> None:
    for block_size in (0, 4097):
        with pytest.raises(InvalidRequestError, match=r"block_size must be in \[1, 4096\]"):
            Recorder(tmp_path / "w.jsonl", block_size=block_size)
    with pytest.raises(FileNotFoundError):
        Recorder(tmp_path / "no" / "w.jsonl")


def test_requests_come_in_order_of_arrival_from_zero(tmp_path: Path) -> None:
    lines = [{**LINE, "arrival_s": s} for s in (7, 5.5, 6)]
    workload = Workload.load(file_of(tmp_path, HEADER, *lines))
    assert [request.arrival_s for request in workload.requests] == [0, 0.5, 1.5]
    assert workload.first(2).requests == workload.requests[:2]
    assert workload.first(9) == workload


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        ([], "line 1: a workload must have at least 1 request"),
        ([HEADER], "line 2: a workload must have at least 1 request"),
        (["{"], "line 1: not JSON"),
        (["[]"], "line 1: must be an object"),
        ([LINE], "line 1: llamaherd_workload must be an integer in [1, 1]; got None"),
        (['{"llamaherd_workload": 2, "block_size": 4}'], "in [1, 1]; got 2"),
        (['{"llamaherd_workload": 1}'], "block_size must be an integer in [1, 4096]; got None"),
        (['{"llamaherd_workload": 1, "block_size": 4, "x": 1}'], "unknown field 'x'"),
        ([HEADER, "", "nope"], "line 3: not JSON"),
        ([HEADER, "[" * 100_000], "line 2: not JSON"),
        ([HEADER, "1" * 5000], "line 2: not JSON"),
        ([HEADER, {**LINE, "text": "Hi"}], "line 2: unknown field 'text'; valid fields are "),
        ([HEADER, {**LINE, "arrival_s": -1}], "arrival_s must be a number in [0, 1e9]; got -1"),
        ([HEADER, {**LINE, "arrival_s": 1e10}], "arrival_s must be a number in [0, 1e9]"),
        ([HEADER, {**LINE, "arrival_s": float("nan")}], "in [0, 1e9]; got nan"),
        ([HEADER, {**LINE, "arrival_s": True}], "in [0, 1e9]; got True"),
        ([HEADER, {**LINE, "arrival_s": "0"}], "in [0, 1e9]; got '0'"),
        ([HEADER, {**LINE, "n_prompt": 0}], "n_prompt must be an integer in [1, "),
        ([HEADER, {**LINE, "n_prompt": 6.0}], "n_prompt must be an integer"),
        ([HEADER, {**LINE, "n_output": 0}], "n_output must be an integer in [1, "),
        ([HEADER, {**LINE, "n_output": True}], "n_output must be an integer"),
        ([HEADER, {**LINE, "n_prompt": 9}], "blocks must be a list of 3 numbers for 9 prompt"),
        ([HEADER, {**LINE, "blocks": None}], "blocks must be a list of 2 numbers"),
        ([HEADER, {**LINE, "blocks": ["0", 1]}], "blocks must be an integer in [0, 0]; got '0'"),
        ([HEADER, {**LINE, "blocks": [0, 2]}], "blocks must be an integer in [0, 1]; got 2"),
        ([HEADER, {**LINE, "blocks": [0, 0]}], "block 0 must have the same blocks before it"),
        ([HEADER, LINE, {**LINE, "n_prompt": 7}], "line 3: block 1 must have the same"),
        ([HEADER, LINE, {**LINE, "blocks": [1, 2]}], "line 3: block 1 must have the same"),
        ([HEADER, {**LINE, "priority": 0.5}], "priority must be an integer"),
        (
            [HEADER, {**LINE, "priority": 101}],
            "priority must be an integer in [0, 100]; got 101",
        ),
        ([HEADER, {**LINE, "tenant": -1}], "tenant must be an integer in [0, "),
        ([HEADER, {**LINE, "tenant": None}], "tenant must be an integer in [0, "),
    ],
)
def test_malformed_files_are_refused_with_line_and_rule(
    tmp_path: Path, lines: list[Any], rule: str
) -> None:
    file = file_of(tmp_path, *lines)
    with pytest.raises(InvalidRequestError) as caught:
        Workload.load(file)
    assert str(caught.value).startswith(f"{file}, line ")
    assert rule in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"cannot read .*: No such file"):
        Workload.load(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_bytes(b"\xff")
    with pytest.raises(InvalidRequestError, match="is not valid UTF-8"):
        Workload.load(tmp_path / "bad.jsonl")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-3, 12) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(deadline=None, max_examples=300)
@given(
    damage=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([*LINE, "priority", "tenant", "x"]), JSON),
        max_size=3,
    ),
    cut=st.integers(0, 400),
    noise=st.text(max_size=3),
)
def test_whatever_stands_in_a_file_it_is_a_workload_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    damage: list[tuple[int, str, Any]],
    cut: int,
    noise: str,
) -> None:
    lines: list[dict[str, Any]] = [dict(LINE) for _ in range(4)]
    for line, name, value in damage:
        lines[line][name] = value
    text = "\n".join([HEADER, *map(json.dumps, lines)])
    file = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    file.write_bytes((text[:cut] + noise + text[cut:]).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(InvalidRequestError):
        workload = Workload.load(file)
        arrivals = [request.arrival_s for request in workload.requests]
        assert arrivals == sorted(arrivals)
        assert arrivals[0] == 0
        lengths = [len(prompt) for prompt in workload.prompts(128)]
        assert lengths == [request.n_prompt for request in workload.requests]


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_made_up_is_the_same_each_time_and_follows_the_rules(name: str) -> None:
    workload = Workload.builtin(name)
    assert workload == Workload.builtin(name, 0)
    assert workload != Workload.builtin(name, 1)
    assert len(Workload.builtin(name, n_requests=5).requests) == 5
    requests: tuple[Request, ...] = workload.requests
    at_once = [request for request in requests if request.arrival_s == 0]
    prompts = workload.prompts(1000)
    begins = {tuple(prompt[:64]) for prompt, r in zip(prompts, requests, strict=True)}
    if name == "throughput":
        assert len(at_once) == len(begins) == len(requests)
        assert {request.priority for request in requests} == {0}
    elif name == "interactive":
        assert len(at_once) == len(begins) == 1
    else:
        assert len(at_once) == len(requests) // 2 + 1
        assert [r.priority for r in at_once] == [1] * (len(requests) // 2) + [0]


def test_a_made_up_workload_needs_a_name_and_a_request() -> None:
    with pytest.raises(InvalidRequestError, match="must be one of interactive, throughput, mixed"):
        Workload.builtin("fast")
    with pytest.raises(InvalidRequestError, match="n_requests must be >= 1; got 0"):
        Workload.builtin("mixed", n_requests=0)


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_generate_records_what_it_ran(
    model_path: Path, tmp_path: Path, stream: tuple[str, ...]
) -> None:
    words = random.Random(3).sample(["rain", "snow", "wind", "hail", "frost", "cloud"] * 12, 60)
    system = {"role": "system", "content": " ".join(words)}
    questions = [[system, {"role": "user", "content": text}] for text in ("Why?", "How so?")]
    jobs = [
        *({"messages": messages, "max_tokens": 3, "ignore_eos": True} for messages in questions),
        {"prompt": "Secret words", "max_tokens": 2, "ignore_eos": True},
        {"prompt": [5, 6, 7], "max_tokens": 1},
        {"prompt": [999999]},
    ]
    source = tmp_path / "jobs.jsonl"
    source.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    file = tmp_path / "workload.jsonl"
    args = ("-m", model_path, *ENGINE, "--temperature", "0", "--file", source, *stream)
    done = run("generate", *args, "--record", file)
    assert done.returncode == 1
    usages = {u["index"]: u["usage"] for u in map(json.loads, done.stdout.splitlines())}
    workload = Workload.load(file)
    assert sorted((r.n_prompt, r.n_output) for r in workload.requests) == sorted(
        (usages[i]["prompt_tokens"], usages[i]["completion_tokens"]) for i in range(4)
    )
    longest, second = sorted(workload.requests, key=lambda r: -r.n_prompt)[:2]
    assert longest.blocks[:2] == second.blocks[:2]
    assert longest.blocks != second.blocks
    assert "ecret" not in file.read_text()
    assert "cannot write" in run("generate", "Hi", "--record", tmp_path / "no" / "w").stderr
