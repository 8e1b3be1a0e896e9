"""Bodies of requests under way have a bound together."""

from __future__ import annotations

import contextlib
import select
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from serving import serve, wait_until

KIB = 1 << 10
HEAD = "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n"


def test_bodies_under_way_are_bounded_together(model_path: Path) -> None:
    options = ("--n-ctx", "1024", "--limit", "max_bodies_mib=1")
    large = {"prompt": "a " * 200 * KIB, "max_tokens": 1}
    small = {"prompt": "a", "max_tokens": 1}
    with (
        serve(model_path, options=options) as served,
        httpx.Client(base_url=served.url, timeout=60) as http,
        contextlib.ExitStack() as stack,
    ):
        assert http.post("/v1/completions", json=large).json()["error"]["code"] != "too_many_bodies"
        address = urlsplit(served.url)
        head = HEAD.format(address.netloc, 1 << 20).encode()
        held: list[socket.socket] = []

        def is_refused(connection: socket.socket) -> bool:
            return bool(select.select([connection], [], [], 0)[0])

        def fill() -> bool:
            # Of bodies that arrive at once any may be the one that is refused.
            held[:] = [connection for connection in held if not is_refused(connection)]
            while len(held) < 2:
                connection = socket.create_connection((address.hostname, address.port or 0))
                held.append(stack.enter_context(connection))
                with contextlib.suppress(ConnectionError):
                    connection.sendall(head + b"[" * 400 * KIB)
            return is_full()

        def is_full() -> bool:
            answer = http.post("/v1/completions", json=large)
            if answer.status_code != 503:
                return False
            assert answer.json()["error"]["code"] == "too_many_bodies"
            assert "at most 1048576 bytes" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"] == "1"
            return True

        wait_until(fill, "bodies have no bound")
        assert http.post("/v1/completions", json=small).status_code == 200
        stack.close()
        wait_until(lambda: not is_full(), "bodies of closed connections are still counted")
