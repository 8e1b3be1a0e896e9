"""Connections that are slow, idle, many, or half closed."""

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
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from llamaherd.server.limits import Limits
from llamaherd.server.listener import Listener, listen
from llamaherd.server.protocol import BoundedProtocol
from serving import serve
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

QUICK = Limits(
    header_timeout_s=0.5, body_timeout_s=0.5, keep_alive_timeout_s=0.5, write_timeout_s=0.5
)
GET = b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n"
OPEN_S = 2.0  # after which what had to be closed would still be open
Address = tuple[str, int]


class App:
    """Answers with the body's size; /wait waits for `go`, /flood writes without end."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.n_left = 0  # requests whose client went away
        self.began = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        n_bytes = 0
        if scope["path"] == "/late":
            await self.go.wait()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.n_left += 1
                return
            n_bytes += len(message["body"])
            if not message.get("more_body"):
                break
        self.began.set()
        if scope["path"] == "/wait":
            leaving = asyncio.ensure_future(receive())
            going = asyncio.ensure_future(self.go.wait())
            await asyncio.wait({leaving, going}, return_when=asyncio.FIRST_COMPLETED)
            going.cancel()
            if leaving.done():
                self.n_left += 1
                return
            leaving.cancel()
        body = str(n_bytes).encode()
        headers = [] if scope["path"] == "/flood" else [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while scope["path"] == "/flood":
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            receiving = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            receiving.cancel()
            if receiving.done() and not receiving.cancelled():
                self.n_left += 1
                return
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def listening(
    app: Any, limits: Limits, context: ssl.SSLContext | None = None
) -> AsyncIterator[Address]:
    """An application on a free port."""
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
    config.load()
    state = ServerState()

    def make(is_reserve: bool, on_lost: Callable[[BoundedProtocol], None]) -> BoundedProtocol:
        return BoundedProtocol(config, state, limits, is_reserve=is_reserve, on_lost=on_lost)

    listener = Listener(
        listen("127.0.0.1", 0),
        make,
        max_connections=limits.max_connections,
        n_reserve=limits.reserved_connections,
        context=context,
        handshake_timeout_s=limits.header_timeout_s,
    )
    try:
        yield listener.sockets[0].getsockname()
    finally:
        listener.close()
        await listener.wait_closed()
        for connection in list(state.connections):
            connection.transport.abort()
        for client in Client.made:
            client.writer.close()
        Client.made.clear()
        await asyncio.sleep(0.05)


class Client:
    """What `listening` closes at its end."""

    made: ClassVar[list[Client]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(
        cls, address: Address, sent: bytes = b"", context: ssl.SSLContext | None = None
    ) -> Client:
        client = cls(*await asyncio.open_connection(*address, ssl=context))
        cls.made.append(client)
        client.writer.write(sent)
        return client

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of the next answer that is not interim."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 30)
        status = int(head.split()[1])
        if status == 100:
            return await self.answer()
        lines = head.split(b"\r\n")[1:-2]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines)}
        body = await self.reader.readexactly(int(headers[b"content-length"]))
        return status, headers, body

    async def end(self) -> bytes:
        """What comes until the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 30)
        return b""

    async def is_open(self) -> bool:
        with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
            await asyncio.wait_for(self.reader.read(1), OPEN_S)
            return False
        return True


async def until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it does not come true")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Runs a coroutine on either event loop."""
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop")
    run: Callable[[Any], None] = uvloop.run
    return run


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 0), (b"GET / HT", 408), (b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ", 408), (b"\r\n", 408)],
)
def test_a_head_that_does_not_come_ends_its_connection(
    run: Callable[[Any], None], sent: bytes, status: int
) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            client = await Client.connect(address, sent)
            if status:
                got, headers, body = await client.answer()
                assert (got, headers[b"connection"]) == (status, b"close")
                assert json.loads(body)["error"]["code"] == "request_timeout"
            assert await client.end() == b""

    run(main())


def test_a_head_that_drips_ends_its_connection(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            client = await Client.connect(address, b"GET / HTTP/1.1\r\n")

            async def drip() -> None:
                while True:
                    client.writer.write(b"x-a: b\r\n")
                    await asyncio.sleep(0.05)

            dripping = asyncio.ensure_future(drip())
            assert (await client.answer())[0] == 408
            dripping.cancel()

    run(main())


@pytest.mark.parametrize("pause_s", [0.05, 30])
def test_a_body_that_drips_or_stops_ends_its_request(
    run: Callable[[Any], None], pause_s: float
) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address:
            head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
            client = await Client.connect(address, head)

            async def drip() -> None:
                while True:
                    client.writer.write(b"x")
                    await asyncio.sleep(pause_s)

            dripping = asyncio.ensure_future(drip())
            status, _, body = await client.answer()
            dripping.cancel()
            assert status == 408
            assert "limit body_timeout_s" in json.loads(body)["error"]["message"]
            await until(lambda: app.n_left == 1)

    run(main())


@pytest.mark.parametrize("begin", [b"0\r\nx: ", b"2;"], ids=["trailer", "extension"])
def test_what_frames_a_body_has_a_bound(run: Callable[[Any], None], begin: bytes) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address:
            head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            client = await Client.connect(address, head + b"2\r\n{}\r\n" + begin)
            client.writer.write(b"y" * (1 << 18))
            status, _, body = await client.answer()
            assert status == 431
            assert "limit max_header_kib" in json.loads(body)["error"]["message"]
            await until(lambda: app.n_left == 1)

    run(main())


def test_a_body_that_comes_slowly_but_well_is_read(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 40000\r\n\r\n"
            client = await Client.connect(address, head)
            for _ in range(10):
                client.writer.write(b"x" * 4000)
                await asyncio.sleep(0.15)
            status, _, body = await client.answer()
            assert (status, body) == (200, b"40000")

    run(main())


def test_a_body_that_is_not_asked_for_is_not_late(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address:
            head = b"POST /late HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            head += b"content-length: 2\r\n\r\n"
            client = await Client.connect(address, head)
            await asyncio.sleep(1.5)
            app.go.set()
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.writer.write(b"xx")
            assert (await client.answer())[2] == b"2"

    run(main())


def test_a_kept_connection_is_closed_when_nothing_comes(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            client = await Client.connect(address, GET % b"")
            assert (await client.answer())[0] == 200
            client.writer.write(GET % b"")
            assert (await client.answer())[0] == 200
            assert await client.end() == b""

    run(main())


def test_a_request_that_takes_long_is_not_cut(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address:
            client = await Client.connect(address, GET % b"wait")
            assert await client.is_open()
            app.go.set()
            assert (await client.reader.readexactly(15)) == b"HTTP/1.1 200 OK"

    run(main())


@contextlib.asynccontextmanager
async def flooded(address: Address) -> AsyncIterator[socket.socket]:
    """A connection of small buffers on which an answer without end comes."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, GET % b"flood")
        yield client


def test_a_client_that_stops_reading_loses_its_request(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address, flooded(address):
            await until(lambda: app.n_left == 1)

    run(main())


def test_a_client_that_reads_slowly_keeps_its_request(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, dataclasses.replace(QUICK, write_timeout_s=1)) as address:
            async with flooded(address) as client:
                for _ in range(30):
                    assert await asyncio.get_running_loop().sock_recv(client, 50_000)
                    await asyncio.sleep(0.1)
                assert app.n_left == 0
            await until(lambda: app.n_left == 1)

    run(main())


@pytest.mark.parametrize("n", [1, 3])
def test_a_half_closed_connection_gets_its_answers(run: Callable[[Any], None], n: int) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address:
            client = await Client.connect(address, GET % b"wait" * n)
            client.writer.write_eof()
            await asyncio.sleep(1.5)  # interim answers are passed over
            app.go.set()
            for _ in range(n):
                status, _, body = await client.answer()
                assert (status, body) == (200, b"0")
            assert await client.end() == b""
            assert app.n_left == 0

    run(main())


def test_a_closed_connection_ends_its_request(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address:
            client = await Client.connect(address, GET % b"wait")
            await app.began.wait()
            client.writer.close()
            await until(lambda: app.n_left == 1)

    run(main())


def test_idle_connections_give_way_to_new_ones(run: Callable[[Any], None]) -> None:
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

    run(main())


def test_connections_whose_bodies_were_refused_give_way(run: Callable[[Any], None]) -> None:
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

    run(main())


def test_the_reserve_answers_health_while_all_connections_are_busy(
    run: Callable[[Any], None],
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

    run(main())


def test_what_is_no_http_gets_an_error_as_any_other(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            client = await Client.connect(address, b"\x16\x03\x01\x00\xa5 hello\r\n\r\n")
            status, _, body = await client.answer()
            assert status == 400
            assert json.loads(body)["error"]["type"] == "invalid_request_error"

    run(main())


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
                    begin = time.monotonic()
                    assert httpx.get(served.url + "/health", timeout=30).status_code == 200
                    assert time.monotonic() - begin < 10
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
        served.logged("RLIMIT_NOFILE must leave descriptors for 4 connections; got 40")


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
            served.logged("connections cannot be accepted: [Errno 24] Too many open files")
            time.sleep(1)
            lines = [line for line in served.lines if "cannot be accepted" in line]
            assert len(lines) == 1
            resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (256, 256))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert served.stop() == 0


def test_a_handshake_of_tls_that_does_not_come_ends_or_gives_way(
    run: Callable[[Any], None], tmp_path: Path
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

    run(main())
