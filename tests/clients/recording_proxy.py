"""An HTTP proxy that writes the requests of a client as JSON lines.

A line has the fields method, path, headers (those in KEPT_HEADERS) and body. The proxy passes
everything on unchanged; answers are streamed.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TextIO

import httpx

# The others name the machine, the connection or a key.
KEPT_HEADERS = ("accept", "content-type", "user-agent")
_HOP_HEADERS = ("connection", "content-length", "host", "transfer-encoding")


@contextlib.contextmanager
def recording_proxy(target: str, file: Path) -> Iterator[str]:
    """The address of a proxy of `target`, while it runs. `file` is overwritten."""
    with (
        file.open("w", encoding="utf-8") as lines,
        httpx.Client(base_url=target, timeout=600) as http,
        ThreadingHTTPServer(("127.0.0.1", 0), _handler(http, lines)) as server,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _handler(http: httpx.Client, lines: TextIO) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass_on(b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            self._record(json.loads(body))
            self._pass_on(body)

        def _record(self, body: Any) -> None:
            headers = {name: self.headers[name] for name in KEPT_HEADERS if name in self.headers}
            line = {"method": "POST", "path": self.path, "headers": headers, "body": body}
            with lock:
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")

        def _pass_on(self, body: bytes) -> None:
            headers = [(k, v) for k, v in self.headers.items() if k.lower() not in _HOP_HEADERS]
            request = {"method": self.command, "url": self.path, "content": body}
            with http.stream(**request, headers=headers) as answer:
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name not in _HOP_HEADERS:
                        self.send_header(name, value)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for piece in answer.iter_raw():
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
