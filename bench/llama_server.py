"""llama.cpp's server as a contestant: a process, and requests that record token times."""

from __future__ import annotations

import http.client
import json
import threading
import time
from pathlib import Path

from llamaherd.benchmark.contestants.servers import Server, free_port


class LlamaServer(Server):
    """A llama-server process; the constructor returns when the model is loaded."""

    def __init__(self, binary: Path, model: Path, options: list[str]) -> None:
        self.port = free_port()
        command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        super().__init__([*command, *options], self.port, "llama-server")

    def complete(self, prompt: list[int], n_new: int) -> Completion:
        return Completion(self.port, prompt, n_new)

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Completion:
    """One streamed request, read by a separate thread."""

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
        """Wait for the end; returns arrival times of tokens."""
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
