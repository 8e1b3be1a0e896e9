"""More connections than there may be, or than there are descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from llamaherd.server.common.limits import Limits
from serving import serve
from starlette.types import Receive, Scope, Send
from wire import GET, QUICK, App, Client, listening

pytestmark = pytest.mark.slow


def test_idle_connections_give_way_to_new_ones(run_on_loop: Callable[[Any], None]) -> None:
    limits = Limits(max_connections=8, reserved_connections=2)

    async def main() -> None:
        async with listening(App(), limits) as address:
            idle = [await Client.connect(address) for _ in range(20)]
            for _ in range(20):
                await Client.connect(address, b"GET / HTTP/1.1\r\n")
            for _ in range(20):
                client = await Client.connect(address, GET % b"")
                assert (await client.answer())[0] == 200
            assert not await idle[0].is_open()

    run_on_loop(main())


def test_connections_whose_bodies_were_refused_give_way(run_on_loop: Callable[[Any], None]) -> None:
    limits = dataclasses.replace(QUICK, max_connections=4, reserved_connections=1)

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        async with listening(refuse, limits) as address:
            post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n"
            for _ in range(30):
                client = await Client.connect(address, post)
                assert (await client.answer())[0] == 413

    run_on_loop(main())


def test_the_reserve_answers_health_while_all_connections_are_busy(
    run_on_loop: Callable[[Any], None],
) -> None:
    limits = Limits(max_connections=4, reserved_connections=2)

    async def main() -> None:
        app = App()
        async with listening(app, limits) as address:
            busy = [await Client.connect(address, GET % b"wait") for _ in range(4)]
            await asyncio.sleep(0.2)
            for _ in range(10):
                await Client.connect(address)
            for _ in range(10):
                client = await Client.connect(address, GET % b"health")
                status, headers, _ = await client.answer()
                assert (status, headers[b"connection"]) == (200, b"close")
                client = await Client.connect(address, GET % b"v1/models")
                status, headers, body = await client.answer()
                assert (status, headers[b"retry-after"]) == (503, b"1")
                assert json.loads(body)["error"]["code"] == "too_many_connections"
            app.go.set()
            for client in busy:
                assert (await client.answer())[0] == 200
            client = await Client.connect(address, GET % b"v1/models")
            assert (await client.answer())[0] == 200

    run_on_loop(main())


def test_a_server_of_few_descriptors_survives_many_connections(model_path: Path) -> None:
    options = ("--n-ctx", "2048", "--limit", "header_timeout_s=3", "--limit", "body_timeout_s=3")
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    with serve(model_path, options=options, n_descriptors=64) as served:
        at = urlsplit(served.url)
        assert at.hostname
        assert at.port
        served.logged("RLIMIT_NOFILE of 64 allows")
        slow_body = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\n"
        )
        with contextlib.ExitStack() as open_sockets:
            for i in range(200):
                made = open_sockets.enter_context(
                    socket.create_connection((at.hostname, at.port), timeout=30)
                )
                made.sendall((b"", b"GET / HTTP/1.1\r\n", slow_body)[i % 3])
                if i % 20 == 0:
                    assert httpx.get(served.url + "/health", timeout=30).status_code == 200
            deadline = time.monotonic() + 60
            while (
                httpx.post(served.url + "/v1/chat/completions", json=body, timeout=60).status_code
                != 200
            ):
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert served.stop() == 0


def test_too_few_descriptors_are_refused(model_path: Path) -> None:
    with serve(model_path, options=("--n-ctx", "2048"), n_descriptors=40) as served:
        assert served.process.wait(120) == 1
        served.logged("RLIMIT_NOFILE must allow at least 4 connections; got 40")


def test_a_server_out_of_descriptors_says_so_and_recovers(model_path: Path) -> None:
    with serve(model_path, options=("--n-ctx", "2048"), n_descriptors=256) as served:
        assert httpx.get(served.url + "/health", timeout=30).status_code == 200
        n_open = len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))
        resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (n_open - 2, 256))
        at = urlsplit(served.url)
        assert at.hostname
        assert at.port
        with socket.create_connection((at.hostname, at.port), timeout=60) as client:
            client.sendall(GET.replace(b"host: x", b"host: localhost") % b"health")
            served.logged("cannot accept connections: [Errno 24] Too many open files")
            time.sleep(1)
            lines = [line for line in served.lines if "cannot accept" in line]
            assert len(lines) == 1
            resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (256, 256))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert served.stop() == 0


def test_a_handshake_of_tls_that_does_not_come_ends_or_gives_way(
    run_on_loop: Callable[[Any], None], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out"]
    subprocess.run([*command.split(), *names, str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    limits = dataclasses.replace(QUICK, max_connections=4, header_timeout_s=2)

    async def main() -> None:
        async with listening(App(), limits, context) as address:
            silent = [await Client.connect(address) for _ in range(8)]
            noisy = await Client.connect(address, GET % b"")
            assert b"200 OK" not in await noisy.end()
            for _ in range(6):
                client = await Client.connect(address, GET % b"", trusting)
                assert (await client.answer())[0] == 200
            for client in silent:
                assert await client.end() == b""

    run_on_loop(main())
