"""Connections that stall, stop, disconnect, or use another protocol."""

from __future__ import annotations

import asyncio
import socket
import struct

from attacks.attack import (
    CLOSED,
    LEFT,
    OK,
    REFUSED,
    Attack,
    Client,
    Send,
    as_json,
    chat,
    close,
    completion,
    read_status,
)

ENDED = frozenset({CLOSED, 400, 408, 411, 413, 431, 501})
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
)
GET = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n"


def head(n_bytes: int, rest: bytes = b"") -> bytes:
    return HEAD + b"content-length: %d\r\n%b\r\n" % (n_bytes, rest)


def raw(name: str, *pieces: bytes, allowed: frozenset[int] = ENDED) -> Attack:
    async def send(client: Client) -> int:
        return await client.raw(*pieces)

    return Attack(name, "connections", send, allowed)


def holding(name: str, beginning: bytes, drip: bytes, n: int = 40, hold_s: float = 5) -> Attack:
    """Many connections that send a beginning and then one byte per second."""

    async def one(client: Client) -> None:
        _, writer = await client.connect()
        try:
            writer.write(beginning)
            for _ in range(int(hold_s)):
                await asyncio.sleep(1)
                writer.write(drip)
                await writer.drain()
        finally:
            await close(writer)

    async def send(client: Client) -> int:
        ends = await asyncio.gather(*[one(client) for _ in range(n)], return_exceptions=True)
        return CLOSED if any(isinstance(end, OSError) for end in ends) else LEFT

    return Attack(name, "connections", send, ENDED, n_clients=10, quick=False)


def flood(path: str, name: str = "") -> Attack:
    async def send(client: Client) -> int:
        return await client.ask("GET", path)

    return Attack(f"a flood of GET {name or path}", "connections", send, OK | {404}, n_clients=16)


def leaving(name: str, body: bytes, after_s: float, *, reset: bool = False) -> Attack:
    async def send(client: Client) -> int:
        _, writer = await client.connect()
        writer.write(head(len(body)) + body)
        await writer.drain()
        await asyncio.sleep(after_s)
        if reset:
            linger = struct.pack("ii", 1, 0)
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await close(writer)
        return LEFT

    return Attack(name, "connections", send, ENDED, n_clients=32)


def stopping(name: str, body: bytes) -> Attack:
    """A client that stops reading a response much larger than all buffers."""

    async def send(client: Client) -> int:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, (client.host, client.port))
            await loop.sock_sendall(sock, body)
            await asyncio.sleep(10)
        except OSError:
            return CLOSED
        finally:
            sock.close()
        return LEFT

    return Attack(name, "connections", send, ENDED, n_clients=8, quick=False)


async def half_closed(client: Client) -> int:
    """The client half-closes after its request; the response must arrive."""
    body = as_json(chat(max_tokens=2))
    reader, writer = await client.connect()
    try:
        writer.write(head(len(body), b"connection: close\r\n") + body)
        await writer.drain()
        writer.write_eof()
        return await read_status(reader, 30)
    except ConnectionError:
        return CLOSED
    finally:
        await close(writer)


async def idle(client: Client) -> int:
    streams = await asyncio.gather(*[client.connect() for _ in range(40)], return_exceptions=True)
    await asyncio.sleep(5)
    for stream in streams:
        if not isinstance(stream, BaseException):
            await close(stream[1])
    return LEFT


async def tiny_chunks(client: Client) -> int:
    pieces = [HEAD + b"transfer-encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 20_000]
    return await client.raw(*pieces, patience_s=2)


def told(name: str, send: Send, allowed: frozenset[int], n_clients: int = 2) -> Attack:
    return Attack(name, "connections", send, allowed, n_clients=n_clients)


LONG_STREAM = as_json(completion(max_tokens=4000, logprobs=50, stream=True, ignore_eos=True))
BODY = as_json(chat(max_tokens=200, ignore_eos=True))

ATTACKS = [
    holding("heads that drip", HEAD, b"x"),
    holding("first bytes that drip", b"G", b"E"),
    holding("bodies that drip", head(1_000_000), b" "),
    holding("chunks that drip", HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    Attack("idle connections", "connections", idle, ENDED, n_clients=10, quick=False),
    stopping(
        "readers that stop",
        b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(LONG_STREAM), LONG_STREAM),
    ),
    stopping(
        "readers of metrics that stop", b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 500
    ),
    told("half-closed requests", half_closed, OK),
    told("a body in 20,000 chunks", tiny_chunks, ENDED | REFUSED),
    leaving("clients that leave at once", BODY, 0),
    leaving("clients that leave after a moment", BODY, 0.05),
    leaving("clients that reset", BODY, 0.05, reset=True),
    raw("1,000 requests in a pipe", (GET + b"\r\n") * 1000, allowed=OK),
    raw("two lengths", HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}x"),
    raw("a length and chunks", HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}"),
    raw("a negative length", HEAD + b"content-length: -5\r\n\r\n"),
    raw("a length of 10^30", HEAD + b"content-length: 1" + b"0" * 30 + b"\r\n\r\n"),
    raw("a chunk of 2^64", HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx"),
    raw("an invalid chunk size", HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nx"),
    raw("100 Continue and nothing", head(100, b"expect: 100-continue\r\n"), allowed=ENDED),
    raw("a compressed body", head(30, b"content-encoding: gzip\r\n") + b"\x1f\x8b" + b"0" * 28),
    raw("10,000 headers", GET + b"a: b\r\n" * 10_000 + b"\r\n", allowed=ENDED | OK),
    raw("a header of 1 MB", GET + b"a: " + b"x" * (1 << 20) + b"\r\n\r\n"),
    raw("a path of 1 MB", b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
    raw("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2),
    raw("noise", bytes(range(256)) * 400),
    raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", allowed=ENDED | {404, 405}),
    raw(
        "CONNECT",
        b"CONNECT a.example:1 HTTP/1.1\r\nhost: a.example\r\n\r\n",
        allowed=ENDED | {403, 404, 405},
    ),
    raw(
        "a web socket",
        GET + b"connection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: eHh4eHh4eHh4eHh4eHh4eA==\r\n\r\n",
        allowed=ENDED | OK | {403, 426},
    ),
    flood("/metrics"),
    flood("/health"),
    flood("/ready"),
    flood("/openapi.json"),
    flood("/pages/state"),
    flood("/v1/models"),
    flood("/" + "x" * 8000, "long paths"),
    flood("/v1/files?limit=10000&after=" + "x" * 5000, "files, after a long name"),
]
