"""Starts the servers that are compared, each in a process."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from llamaherd.benchmark.contestants.contestant import ContestantConfig, Unavailable
from llamaherd.benchmark.contestants.process_log import LoggedProcess

_START_S = 300


@dataclass(frozen=True)
class Programs:
    """Paths of contestants that are not installed as packages.

    Attributes:
      llama_server: llama.cpp's server; None: llama-server on PATH.
      llama_cpp_server: examples/server/server.py of llama-cpp-python's sources; None: not run.
    """

    llama_server: Path | None = None
    llama_cpp_server: Path | None = None


class Server:
    """A server process. The constructor waits until it responds; raises `Unavailable` if it exits
    first.

    Attributes:
      url: Base URL without path.
    """

    def __init__(self, command: Sequence[str], port: int, version: str) -> None:
        self.version = version
        self._name = command[0]
        self.url = f"http://127.0.0.1:{port}"
        self.process = LoggedProcess(command)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises `Unavailable` with the last line of its log if the process has exited."""
        code = self.process.poll()
        if code is not None:
            raise Unavailable(f"{self._name} exited with status {code}: {self.process.last_line()}")

    def _wait(self) -> None:
        end_s = time.monotonic() + _START_S
        while time.monotonic() < end_s:
            self.check()
            if self._answers():
                return
            time.sleep(0.1)
        raise Unavailable(f"{self._name} did not respond within {_START_S} s")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models", timeout=10) as answer:
                return bool(json.load(answer)["data"])
        except (OSError, ValueError, KeyError, urllib.error.HTTPError):
            return False

    def cpu_s(self) -> float:
        """CPU time used so far, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.terminate()
        self.process.end()


def _herd(setup: ContestantConfig, programs: Programs) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "llamaherd.cli", "serve", setup.model, "--port", str(port)]
    command += ["--threads", str(setup.n_threads), "--max-seqs", str(setup.n_seqs)]
    command += ["--n-ctx", str(setup.n_ctx)]
    return Server(command, port, f"llamaherd {version('llamaherd')}")


def _llama_server(setup: ContestantConfig, programs: Programs) -> Server:
    """llama-server with default options."""
    return _start_llama_server(setup, programs, [])


def _llama_server_tuned(setup: ContestantConfig, programs: Programs) -> Server:
    """llama-server with one slot per concurrent request and a unified KV cache."""
    options = ["-np", str(setup.n_seqs), "--kv-unified", "-c", str(setup.n_ctx)]
    return _start_llama_server(setup, programs, options)


def _start_llama_server(setup: ContestantConfig, programs: Programs, options: list[str]) -> Server:
    found = programs.llama_server or shutil.which("llama-server")
    if found is None:
        raise Unavailable("requires llama-server on PATH or --llama-server")
    try:
        said = subprocess.run([str(found), "--version"], capture_output=True, text=True)
    except OSError as error:
        raise Unavailable(f"cannot run {found}: {error.strerror}") from None
    build = re.search(r"version: (.+)", said.stderr + said.stdout)
    port = free_port()
    command = [str(found), "-m", setup.model, "-t", str(setup.n_threads), "--port", str(port)]
    return Server(
        [*command, *options], port, f"llama-server {build[1] if build else '(unknown version)'}"
    )


def _xllamacpp(setup: ContestantConfig, programs: Programs) -> Server:
    """llama.cpp's server in a Python process, with the options of llama-server-tuned."""
    try:
        name = f"xllamacpp {version('xllamacpp')}"
    except PackageNotFoundError:
        raise Unavailable("requires the package xllamacpp") from None
    port = free_port()
    script = (
        "import sys, time, xllamacpp\n"
        "model, threads, seqs, ctx, port = sys.argv[1:]\n"
        "params = xllamacpp.CommonParams()\n"
        "params.model.path = model\n"
        "params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)\n"
        "params.n_parallel, params.n_ctx, params.kv_unified = int(seqs), int(ctx), True\n"
        "params.port = int(port)\n"
        "server = xllamacpp.Server(params)\n"
        "while True: time.sleep(3600)\n"
    )
    values = [setup.model, setup.n_threads, setup.n_seqs, setup.n_ctx, port]
    return Server([sys.executable, "-c", script, *map(str, values)], port, name)


def _llama_cpp_server(setup: ContestantConfig, programs: Programs) -> Server:
    """llama-cpp-python's example server: batching and prefix cache in Python. It has no option to
    ignore end of text, so its outputs may be shorter."""
    if programs.llama_cpp_server is None:
        raise Unavailable("requires --llama-cpp-server")
    if find_spec("llama_cpp") is None:
        raise Unavailable("requires the package llama-cpp-python")
    port = free_port()
    model = {
        "path": setup.model,
        "n_ctx": setup.n_ctx,
        "n_seq_max": setup.n_seqs,
        "threads": setup.n_threads,
        "threads_batch": setup.n_threads,
        "kv_unified": True,
        "store_logits": False,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"server": {"port": port}, "model": model}, file)
        file.flush()
        command = [sys.executable, str(programs.llama_cpp_server), "-C", file.name]
        return Server(command, port, f"llama-cpp-python {version('llama-cpp-python')}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


SERVERS: dict[str, Callable[[ContestantConfig, Programs], Server]] = {
    "llamaherd-server": _herd,
    "llama-server": _llama_server,
    "llama-server-tuned": _llama_server_tuned,
    "llama-cpp-python-server": _llama_cpp_server,
    "xllamacpp": _xllamacpp,
}
