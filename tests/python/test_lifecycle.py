"""Engines from birth to death: loading, closing, dropping, forks, Ctrl-C, interpreter exit."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest
from llamaherd import (
    LLM,
    BatchEngine,
    EngineConfig,
    EngineDeadError,
    FinishReason,
    InvalidRequestError,
    ModelLoadError,
    SamplingParams,
)

SMALL = EngineConfig(n_ctx=2048, max_seqs=4, n_threads=1, warmup=False)
LONG = SamplingParams(max_tokens=400, ignore_eos=True)
SHORT = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
WAIT_S = 300

PREAMBLE = """
import asyncio, os, signal, sys, threading, time
from llamaherd import LLM, BatchEngine, EngineConfig, EngineDeadError, SamplingParams
CONFIG = EngineConfig(n_ctx=2048, max_seqs=4, n_threads=1, warmup=False)
LONG = SamplingParams(max_tokens=400, ignore_eos=True)
SHORT = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
engine = BatchEngine(sys.argv[1], CONFIG)
"""


def start(script: str, model: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, model: Path) -> str:
    """The output of a script that must end with exit code 0 and nothing on stderr."""
    process = start(script, model)
    try:
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, ""), out
    return out


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_a_thread_in_the_core_does_not_disturb_the_end_of_the_interpreter(
    model_path: Path,
) -> None:
    for _ in range(3):
        run(
            """
def wait():
    while True:
        engine._core.drain(0.001)
for _ in range(8):
    threading.Thread(target=wait, daemon=True).start()
time.sleep(0.05)
""",
            model_path,
        )


def test_python_threads_run_during_generation(model_path: Path) -> None:
    progress: list[int] = []
    with BatchEngine(model_path, SMALL) as engine:
        stream = engine.submit("The", SamplingParams(max_tokens=16, ignore_eos=True))

        def count() -> None:
            while not stream.finished:
                progress.append(stream.usage.completion_tokens)
                time.sleep(0.0005)

        thread = threading.Thread(target=count)
        thread.start()
        stream.result(WAIT_S)
        thread.join()
    # A decode call that held the GIL would let the counter run only between two tokens.
    assert len(progress) > 3 * 16


def test_closed_engine_refuses_everything(model_path: Path) -> None:
    engine = BatchEngine(model_path, SMALL)
    assert not engine.closed
    ended = engine.submit("The", SHORT)
    expected = ended.result(WAIT_S)
    engine.close()
    engine.close()
    assert engine.closed
    for call in (
        lambda: engine.submit("The"),
        lambda: engine.submit([5]),
        lambda: engine.tokenize("The"),
        lambda: engine.detokenize([5]),
        lambda: engine.apply_chat_template([{"role": "user", "content": "hi"}]),
        engine.model_info,
    ):
        with pytest.raises(EngineDeadError, match="closed"):
            call()
    assert ended.result() == expected
    assert engine.metrics().n_running == 0


def test_llm_closes_its_engine(model_path: Path) -> None:
    with LLM(model_path, SMALL) as llm:
        assert len(llm.generate(["The"], SHORT)) == 1
    llm.close()
    with pytest.raises(EngineDeadError, match="closed"):
        llm.generate(["The"])


async def test_async_with_closes(model_path: Path) -> None:
    async with BatchEngine(model_path, SMALL) as engine:
        assert (await engine.submit("The", SHORT).aresult()).usage.completion_tokens == 4
        running = engine.submit("The", LONG)
    assert engine.closed
    assert (await running.aresult()).finish_reason is FinishReason.CANCELLED


def test_closing_from_several_threads_cancels_what_runs_and_waits(model_path: Path) -> None:
    engine = BatchEngine(model_path, SMALL)
    streams = [engine.submit("The", LONG) for _ in range(8)]
    first = next(iter(streams[0]))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: engine.close(), range(4)))
    results = [stream.result(WAIT_S) for stream in streams]
    assert [r.finish_reason for r in results] == [FinishReason.CANCELLED] * 8
    assert results[0].token_ids[:1] == first.token_ids
    assert results[-1].token_ids == []


def test_closing_frees_the_memory(model_path: Path) -> None:
    out = run(
        """
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = rss()
big = BatchEngine(sys.argv[1], EngineConfig(n_ctx=8192, max_seqs=4, warmup=False, use_mmap=False))
big.submit("The", SHORT).result()
used = rss() - before
big.close()
print(used, rss() - before)
""",
        model_path,
    )
    used, left = map(int, out.split())
    assert used > 200e6
    assert left < used / 3


def test_a_dropped_engine_stops_its_threads(model_path: Path) -> None:
    before = set(threading.enumerate())
    engine = BatchEngine(model_path, SMALL)
    (pump,) = (t for t in set(threading.enumerate()) - before if t.name == "llamaherd-pump")
    stream = engine.submit("The", LONG)
    next(iter(stream))
    assert engine.cache.stats().n_holders >= 0
    # Nothing may refer back to the engine: memory of this size cannot wait for the collector.
    gc.disable()
    try:
        del engine
        wait_for(lambda: not pump.is_alive())
    finally:
        gc.enable()
    assert stream.result(WAIT_S).finish_reason is FinishReason.CANCELLED


def test_two_engines_do_not_disturb_each_other(model_path: Path) -> None:
    prompts = ["The capital of France is", "Once upon a time", "One two three"]
    config = EngineConfig(n_ctx=2048, max_seqs=4, deterministic=True, n_threads=1)
    with BatchEngine(model_path, config) as exact:
        alone = [exact.submit(prompt, SHORT).result(WAIT_S).token_ids for prompt in prompts]
        with BatchEngine(model_path, SMALL) as quick:
            noise = [quick.submit(prompt, LONG) for prompt in prompts]
            next(iter(noise[0]))
            beside = [exact.submit(prompt, SHORT) for prompt in prompts]
            assert [stream.result(WAIT_S).token_ids for stream in beside] == alone
            assert not noise[0].finished
        assert exact.submit(prompts[0], SHORT).result(WAIT_S).token_ids == alone[0]


EXITS = {
    "sync": "stream = engine.submit('The', LONG); next(iter(stream))",
    "with a waiting daemon": (
        "s = engine.submit('The', LONG)\n"
        "threading.Thread(target=s.result, daemon=True).start()\nnext(iter(s))"
    ),
    "asyncio": (
        "async def main():\n"
        "    task = asyncio.create_task(engine.submit('The', LONG).aresult())\n"
        "    async for _ in engine.submit('The', LONG):\n"
        "        break\n"
        "asyncio.run(main())"
    ),
    "unthreaded": (
        "e = BatchEngine(sys.argv[1], CONFIG, threaded=False)\ns = e.submit('The', LONG)\ne.step()"
    ),
    "sys.exit in a with block": "with engine:\n    engine.submit('The', LONG)\n    sys.exit(0)",
}


@pytest.mark.parametrize("name", list(EXITS))
def test_interpreter_ends_quietly_with_a_live_engine(model_path: Path, name: str) -> None:
    out = run(EXITS[name] + "\nprint('end', flush=True)" * (name[:3] != "sys"), model_path)
    assert out == ("" if name.startswith("sys") else "end\n")


def test_fork_makes_the_engine_unusable_in_the_child_only(model_path: Path) -> None:
    out = run(
        """
import warnings
warnings.simplefilter("ignore")  # Python's own about forks of threaded processes
stream = engine.submit("The", LONG)
next(iter(stream))
calls = [
    lambda: engine.submit("The"), lambda: engine.submit([5]), engine.metrics, engine.model_info,
    lambda: engine.tokenize("The"), lambda: engine.detokenize([5]), stream.result,
    stream.cancel, lambda: next(iter(stream)), lambda: asyncio.run(stream.aresult()),
    lambda: engine.apply_chat_template([{"role": "user", "content": "hi"}]),
]
for _ in range(20):
    child = os.fork()
    if child == 0:
        for call in calls:
            try:
                call()
            except EngineDeadError as error:
                assert "process" in str(error)
            else:
                os._exit(3)
        engine.close()
        del engine, calls
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stream.cancel()
print(len(engine.submit("The", SHORT).result().token_ids))
""",
        model_path,
    )
    assert out == "4\n"


@pytest.mark.parametrize(
    "call",
    [
        "LLM.generate(llm, ['The'] * 8, LONG)",
        "engine.submit('The', LONG).result()",
        "list(engine.submit('The', LONG))",
        "list(llm.stream('The', LONG))",
    ],
)
def test_ctrl_c_interrupts_generation(model_path: Path, call: str) -> None:
    script = f"""
llm = LLM.__new__(LLM)
llm._engine, llm._progress = engine, False
def report():
    while engine.metrics().n_output_tokens == 0:
        time.sleep(0.01)
    print("running", flush=True)
threading.Thread(target=report, daemon=True).start()
try:
    {call}
    print("ended")
except KeyboardInterrupt:
    print("interrupted")
"""
    process = start(script, model_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "interrupted\n", "")


def test_what_cannot_be_loaded_says_why(model_path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("no model at all")
    empty = tmp_path / "empty.gguf"
    empty.touch()
    truncated = tmp_path / "truncated.gguf"
    with model_path.open("rb") as model:
        truncated.write_bytes(model.read(1 << 20))
    cut = tmp_path / "cut.gguf"
    with model_path.open("rb") as model:
        cut.write_bytes(model.read(model_path.stat().st_size - 1000))
    alien = tmp_path / "alien.gguf"
    writer = gguf.GGUFWriter(alien, "no_such_architecture")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    reasons = {
        tmp_path / "missing.gguf": "missing.gguf",
        tmp_path: "is a directory",
        text: "not a GGUF file",
        empty: "not a GGUF file",
        truncated: "truncated.gguf: ",
        cut: "cut.gguf: ",
        alien: "no_such_architecture",
    }
    for path, reason in reasons.items():
        with pytest.raises(ModelLoadError) as caught:
            BatchEngine(path, SMALL)
        assert reason in str(caught.value)
        assert not str(caught.value).rstrip().endswith(":"), "no reason given"
    assert not [t for t in threading.enumerate() if t.name == "llamaherd-load"]


def test_options_that_do_not_fit_are_refused(model_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="NOPE"):
        BatchEngine(model_path, EngineConfig(devices=["NOPE"]))
    with pytest.raises(InvalidRequestError, match=r"max_len must be <= n_ctx \(\d+\); got 4096"):
        BatchEngine(model_path, EngineConfig(n_ctx=512, max_len=4096, warmup=False))
    with pytest.raises(ModelLoadError, match="template"):
        BatchEngine(model_path, EngineConfig(chat_template="{% for %}", warmup=False))
    with pytest.raises(TypeError, match="config must be an EngineConfig; got dict"):
        BatchEngine(model_path, {"n_ctx": 512})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        BatchEngine(5)  # type: ignore[arg-type]
