"""A device with memory of its own: ggml's RPC backend on loopback stands in for a GPU."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import skip_or_fail
from llamaherd import LLM, EngineConfig, FinishReason, InvalidRequestError, SamplingParams, _core
from llamaherd.cli.demo import QUESTIONS

pytestmark = pytest.mark.slow

GREEDY = SamplingParams(temperature=0, max_tokens=8)

# Ends with its parent, however that ends.
SERVER = """
import os, sys, threading
from llamaherd import _core
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
_core.serve_rpc(sys.argv[1])
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            wait_until_it_listens(server, port)
            yield address
        finally:
            server.kill()


def wait_until_it_listens(server: subprocess.Popen[str], port: int) -> None:
    for _ in range(600):
        if server.poll() is not None:
            assert server.stderr is not None
            skip_or_fail(f"this build has no RPC backend: {server.stderr.read().strip()[-200:]}")
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the RPC server did not listen within 60 s")


@pytest.fixture(scope="module")
def llm(model_path: Path, endpoint: str) -> Iterator[LLM]:
    config = EngineConfig(devices=[f"rpc://{endpoint}"], n_ctx=2048, max_seqs=8)
    with LLM(model_path, config) as llm:
        yield llm


def test_all_layers_are_on_the_device(llm: LLM) -> None:
    # Decode and prefill rows share one call there; the CPU would split them.
    before = llm.engine.metrics()
    long_one = llm.engine.submit(" ".join(QUESTIONS), GREEDY)
    others = [llm.engine.submit(question, GREEDY) for question in QUESTIONS[:4]]
    for stream in (long_one, *others):
        assert stream.result().finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
    after = llm.engine.metrics()
    assert after.n_steps - before.n_steps == (
        after.n_decode_calls
        - before.n_decode_calls
        + after.n_prefill_calls
        - before.n_prefill_calls
    )


def test_batched_answers_match_the_cpu_where_the_choice_is_clear(
    llm: LLM, model_path: Path
) -> None:
    prompts = ["The capital of France is", "1, 2, 3, 4, 5,", "Monday, Tuesday, Wednesday,"]
    params = SamplingParams(temperature=0, max_tokens=3)
    with LLM(model_path, EngineConfig(deterministic=True, n_ctx=512, n_gpu_layers=0)) as cpu:
        expected = [result.token_ids for result in cpu.generate(prompts, params)]
    assert [result.token_ids for result in llm.generate(prompts * 3, params)] == expected * 3


def test_many_requests_come_and_go_and_leave_no_cell_in_use(llm: LLM) -> None:
    streams = [llm.engine.submit(q, SamplingParams(max_tokens=64)) for q in QUESTIONS * 4]
    for stream in streams[::2]:
        stream.cancel()
    results = [stream.result() for stream in streams]
    assert all(r.finish_reason is not FinishReason.ERROR for r in results)
    metrics = llm.engine.metrics()
    assert (metrics.n_cells_reserved, metrics.n_running, metrics.n_waiting) == (0, 0, 0)


def test_a_seed_gives_the_same_numbers_on_the_device(llm: LLM) -> None:
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=8)
    first, second = llm.generate([QUESTIONS[0]], params), llm.generate([QUESTIONS[0]], params)
    assert first[0].token_ids == second[0].token_ids


def test_a_server_that_is_not_there_is_an_error(model_path: Path, endpoint: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed_port = probe.getsockname()[1]
    with pytest.raises(InvalidRequestError, match="RPC server"):
        LLM(model_path, EngineConfig(devices=[f"rpc://127.0.0.1:{closed_port}"]))


def test_deterministic_mode_refuses_the_device(model_path: Path, endpoint: str) -> None:
    with pytest.raises(InvalidRequestError, match="deterministic"):
        LLM(model_path, EngineConfig(devices=[f"rpc://{endpoint}"], deterministic=True))


def test_the_device_is_not_the_cpu(llm: LLM) -> None:
    assert [device.kind for device in _core.list_devices()] == ["cpu"]
    assert llm.engine.model_info()["memory_kind"] == "plain"
