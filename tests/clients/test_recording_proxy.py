"""The proxy passes requests on and records them without private headers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from recording_proxy import recording_proxy


class _Echo(BaseHTTPRequestHandler):
    """Answers with the path, the key and the body."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(418)
        self.send_header("content-type", "text/plain")
        self.end_headers()
        self.wfile.write(f"{self.path} {self.headers['authorization']} ".encode() + body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def target() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_requests_are_passed_on_and_recorded(target: str, tmp_path: Path) -> None:
    file = tmp_path / "client.jsonl"
    headers = {"authorization": "Bearer secret", "user-agent": "client/1", "x-other": "1"}
    with (
        recording_proxy(target, file) as url,
        httpx.Client(base_url=url, headers=headers) as http,
    ):
        answer = http.post("/v1/a?b=c", json={"city": "Malmö"})
        assert answer.status_code == 418
        assert answer.headers["content-type"] == "text/plain"
        assert answer.text == '/v1/a?b=c Bearer secret {"city":"Malmö"}'
        assert http.get("/v1/models").text == "/v1/models Bearer secret "
    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "method": "POST",
        "path": "/v1/a?b=c",
        "headers": {
            "accept": "*/*",
            "content-type": "application/json",
            "user-agent": "client/1",
        },
        "body": {"city": "Malmö"},
    }
