"""A server as a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx


class Served:
    """A server that runs, and what it has logged."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._address = ""
        self._known = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"running on (https?://[\w.:\[\]]+)", line)
            if found:
                self._address = found[1]
                self._known.set()
        self._known.set()

    @property
    def url(self) -> str:
        """http://host:port, once it listens."""
        assert self._known.wait(120), "the server does not listen"
        assert self._address, "".join(self.lines)
        return self._address

    def logged(self, text: str) -> str:
        """The line that holds a text, once there is one."""
        deadline = time.monotonic() + 30
        while True:
            for line in list(self.lines):
                if text in line:
                    return line
            assert time.monotonic() < deadline, f"{text} is not logged"
            time.sleep(0.01)

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def figure(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"llamaherd_{name}")).split()[-1])


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextlib.contextmanager
def serve_with_tools(
    model: str | Path, folder: Path, *options: str, n_ctx: int = 16384
) -> Iterator[Served]:
    """A server whose model `chat` has a chat template with tools and reasoning."""
    # Here: tests of clients against a running server need no llamaherd.
    from chat_templates import TOOLS_AND_THOUGHTS
    from llamaherd import EngineConfig

    config = folder / "engine.toml"
    EngineConfig(chat_template=TOOLS_AND_THOUGHTS, n_ctx=n_ctx).to_file(config)
    with serve(f"chat={model}", options=("--config", str(config), *options)) as served:
        yield served


@contextlib.contextmanager
def serve(
    *models: str | Path,
    options: tuple[str, ...] = (),
    keys: str = "",
    n_descriptors: int | None = None,
) -> Iterator[Served]:
    """`llamaherd serve` on a free port; killed at the end if it still runs."""

    def bound() -> None:
        if n_descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (n_descriptors, n_descriptors))

    command = [sys.executable, "-m", "llamaherd.cli", "serve", *map(str, models), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--threads", "1", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LLAMAHERD_API_KEYS": keys},
        preexec_fn=bound,
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
