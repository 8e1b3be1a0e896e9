"""A server of one small application, and clients that write bytes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import pytest
import uvicorn
from llamaherd.server.access.connection_listener import ConnectionListener, listen
from llamaherd.server.access.http_protocol import BoundedProtocol
from llamaherd.server.common.limits import Limits
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
        self.n_begun = 0

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
        self.n_begun += 1
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
    app: Any, limits: Limits, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Address]:
    """An application on a free port."""
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
    config.load()
    state = ServerState()

    def make(is_reserve: bool, on_lost: Callable[[BoundedProtocol], None]) -> BoundedProtocol:
        return BoundedProtocol(config, state, limits, is_reserve=is_reserve, on_lost=on_lost)

    listener = ConnectionListener(
        listen(host, 0),
        make,
        max_connections=limits.max_connections,
        n_reserve=limits.reserved_connections,
        context=context,
        handshake_timeout_s=limits.header_timeout_s,
    )
    try:
        yield listener.sockets[0].getsockname()[:2]
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
