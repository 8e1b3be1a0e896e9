"""Signals end a server, whatever its threads do."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny_models

pytestmark = pytest.mark.slow

SCRIPT = """
import asyncio, sys, threading, time
from llamaherd import EngineConfig
from llamaherd.server import ModelPool, ModelSpec, ServerSettings, create_app
from llamaherd.server.server_process import Server

config = EngineConfig(n_ctx=256, max_seqs=1, n_threads=1, warmup=False)
settings = ServerSettings(port=0, drain_timeout_s=0)
pool = ModelPool([ModelSpec("m", sys.argv[1], config)])
server = Server(create_app(pool, settings), settings)
startup = server.startup

async def started(sockets=None):
    await startup(sockets)
    begin()
    print("started", flush=True)

server.startup = started

def thread():
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)

def loop():
    asyncio.get_running_loop().call_later(0.2, time.sleep, 1e6)

def interpreter():
    asyncio.get_running_loop().call_later(0.2, sum, range(1 << 60))

begin = {"nothing": lambda: None, "a thread": thread, "the loop": loop,
         "the interpreter": interpreter}[sys.argv[2]]
server.run()
"""


@pytest.mark.parametrize(
    ("stuck", "numbers"),
    [
        ("nothing", ("SIGTERM",)),
        ("a thread", ("SIGTERM", "SIGTERM")),
        ("a thread", ("SIGINT", "SIGTERM")),
        ("the loop", ("SIGTERM", "SIGTERM")),
        ("the loop", ("SIGINT", "SIGTERM")),
        # Here no Python code runs, and the kernel counts each signal by itself.
        ("the interpreter", ("SIGTERM", "SIGTERM")),
    ],
)
def test_a_second_signal_ends_the_process_at_once(
    tmp_path: Path, stuck: str, numbers: tuple[str, ...]
) -> None:
    model = tiny_models.write("plain", tmp_path / "m.gguf")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, model, stuck], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        threading.Event().wait(1)
        process.send_signal(getattr(signal, numbers[0]))
        if stuck == "nothing":
            assert process.wait(60) == 0
            return
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(getattr(signal, numbers[1]))
        assert process.wait(60) == -getattr(signal, numbers[1])
    finally:
        process.kill()
        process.communicate()
