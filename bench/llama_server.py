"""llama.cpp's own server as a contestant: a process, and requests that note when tokens arrive."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class LlamaServer:
    """Loaded on return."""

    def __init__(self, binary: Path, model: Path, options: list[str]) -> None:
        self.port = free_port()
        command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        command += options
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not self._healthy():
            if self._process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {self._process.returncode}")
            time.sleep(0.1)

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """Processor time it has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def complete(self, prompt: list[int], n_new: int) -> Completion:
        return Completion(self.port, prompt, n_new)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Completion:
    """One streamed request, read by a thread of its own."""

    def __init__(self, port: int, prompt: list[int], n_new: int) -> None:
        self._port = port
        self._body = json.dumps(
            {
                "prompt": prompt,
                "n_predict": n_new,
                "ignore_eos": True,
                "cache_prompt": False,
                "temperature": 0,
                "stream": True,
            }
        )
        self._changed = threading.Condition()
        self._ended = False
        self._error = ""
        self.submit_ns = time.monotonic_ns()
        self.token_ns: list[int] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def wait_for(self, n_tokens: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self.token_ns) >= n_tokens or self._ended)

    def result(self) -> list[int]:
        """Waits for the end; when each token arrived."""
        self._thread.join()
        if self._error:
            raise RuntimeError(f"llama-server: {self._error}")
        return self.token_ns

    def _read(self) -> None:
        try:
            self._read_events()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._error = repr(error)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_events(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/completion", self._body, headers)
        response = connection.getresponse()
        if response.status != 200:
            self._error = response.read().decode()
            return
        for line in response:
            now = time.monotonic_ns()
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[len(b"data: ") :])
            if "error" in event:
                self._error = str(event["error"])
            with self._changed:
                self.token_ns += [now] * len(event.get("tokens", ()))
                self._changed.notify_all()
        connection.close()
