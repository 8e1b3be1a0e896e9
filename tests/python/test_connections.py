"""Connections that are slow, idle or half closed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from wire import GET, QUICK, Address, App, Client, listening, until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 0), (b"GET / HT", 408), (b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ", 408), (b"\r\n", 408)],
)
def test_a_head_that_does_not_come_ends_its_connection(
    run_on_loop: Callable[[Any], None], sent: bytes, status: int
) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            client = await Client.connect(address, sent)
            if status:
                got, headers, body = await client.answer()
                assert (got, headers[b"connection"]) == (status, b"close")
                assert json.loads(body)["error"]["code"] == "request_timeout"
            assert await client.end() == b""

    run_on_loop(main())


def test_a_head_that_drips_ends_its_connection(run_on_loop: Callable[[Any], None]) -> None:
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

    run_on_loop(main())


@pytest.mark.parametrize("pause_s", [0.05, 30])
def test_a_body_that_drips_or_stops_ends_its_request(
    run_on_loop: Callable[[Any], None], pause_s: float
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

    run_on_loop(main())


@pytest.mark.parametrize("begin", [b"0\r\nx: ", b"2;"], ids=["trailer", "extension"])
def test_what_frames_a_body_has_a_bound(run_on_loop: Callable[[Any], None], begin: bytes) -> None:
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

    run_on_loop(main())


def test_a_body_that_comes_slowly_but_well_is_read(run_on_loop: Callable[[Any], None]) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 40000\r\n\r\n"
            client = await Client.connect(address, head)
            for _ in range(10):
                client.writer.write(b"x" * 4000)
                await asyncio.sleep(0.15)
            status, _, body = await client.answer()
            assert (status, body) == (200, b"40000")

    run_on_loop(main())


def test_a_body_that_is_not_asked_for_is_not_late(run_on_loop: Callable[[Any], None]) -> None:
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

    run_on_loop(main())


def test_a_kept_connection_is_closed_when_nothing_comes(run_on_loop: Callable[[Any], None]) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            client = await Client.connect(address, GET % b"")
            assert (await client.answer())[0] == 200
            client.writer.write(GET % b"")
            assert (await client.answer())[0] == 200
            assert await client.end() == b""

    run_on_loop(main())


def test_a_request_that_takes_long_is_not_cut(run_on_loop: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address:
            client = await Client.connect(address, GET % b"wait")
            assert await client.is_open()
            app.go.set()
            assert (await client.reader.readexactly(15)) == b"HTTP/1.1 200 OK"

    run_on_loop(main())


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


def test_a_client_that_stops_reading_loses_its_request(run_on_loop: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address, flooded(address):
            await until(lambda: app.n_left == 1)

    run_on_loop(main())


def test_a_client_that_reads_slowly_keeps_its_request(run_on_loop: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, dataclasses.replace(QUICK, write_timeout_s=1)) as address:
            async with flooded(address) as client:
                for _ in range(30):
                    assert await asyncio.get_running_loop().sock_recv(client, 50_000)
                    await asyncio.sleep(0.1)
                assert app.n_left == 0
            await until(lambda: app.n_left == 1)

    run_on_loop(main())


@pytest.mark.parametrize("n", [1, 3])
def test_a_half_closed_connection_gets_its_answers(
    run_on_loop: Callable[[Any], None], n: int
) -> None:
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

    run_on_loop(main())


def test_a_closed_connection_ends_its_request(run_on_loop: Callable[[Any], None]) -> None:
    async def main() -> None:
        app = App()
        async with listening(app, QUICK) as address:
            client = await Client.connect(address, GET % b"wait")
            await app.began.wait()
            client.writer.close()
            await until(lambda: app.n_left == 1)

    run_on_loop(main())


def test_what_is_no_http_gets_an_error_as_any_other(run_on_loop: Callable[[Any], None]) -> None:
    async def main() -> None:
        async with listening(App(), QUICK) as address:
            client = await Client.connect(address, b"\x16\x03\x01\x00\xa5 hello\r\n\r\n")
            status, _, body = await client.answer()
            assert status == 400
            assert json.loads(body)["error"]["type"] == "invalid_request_error"

    run_on_loop(main())
