"""Attacks and the client that sends them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

sys.setrecursionlimit(20_000)  # for deeply nested bodies
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}

LEFT = -1  # the client gave up waiting
CLOSED = 0  # the connection was closed without a response
OK, REFUSED = frozenset({200}), frozenset({400, 413})
BUSY = frozenset({429, 503})  # allowed for every attack, as others may occupy the server
EITHER = OK | REFUSED


class Client:
    """Sends attacks. `index` identifies a client within one attack."""

    def __init__(self, url: str, session: aiohttp.ClientSession, index: int) -> None:
        self.url, self._session, self.index = url, session, index
        address = urlsplit(url)
        assert address.hostname is not None
        self.host, self.port = address.hostname, address.port
        self._numbers = itertools.count()

    def unique(self) -> str:
        """A string that no client has sent before."""
        return f"{self.index}-{next(self._numbers)}"

    async def ask(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        patience_s: float = 15,
    ) -> int:
        """Send a request and read the response; returns its status, CLOSED or LEFT."""
        try:
            return await asyncio.wait_for(self._ask(method, path, content, headers), patience_s)
        except asyncio.TimeoutError:
            return LEFT
        except (aiohttp.ClientError, ConnectionError):
            return CLOSED

    async def _ask(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str] | None
    ) -> int:
        async with self._session.request(
            method, self.url + path, data=content, headers=headers or JSON
        ) as answer:
            async for _ in answer.content.iter_any():
                pass
            return answer.status

    async def post(self, path: str, body: Any, *, patience_s: float = 15) -> int:
        return await self.ask("POST", path, as_json(body), patience_s=patience_s)

    async def raw(self, *pieces: bytes, pause_s: float = 0, patience_s: float = 15) -> int:
        """Send raw bytes with pauses in between; returns the response's status."""
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            return await read_status(reader, patience_s)
        except ConnectionError:
            return CLOSED
        finally:
            await close(writer)

    async def connect(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, **options)


async def read_status(reader: asyncio.StreamReader, patience_s: float) -> int:
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience_s)
        if head.startswith(b"HTTP/1.1 100 "):  # the final response follows
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience_s)
    except asyncio.TimeoutError:
        return LEFT
    except asyncio.IncompleteReadError:
        return CLOSED
    return int(head.split()[1]) if head.startswith(b"HTTP/") else CLOSED


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError, OSError):
        await writer.wait_closed()


Send = Callable[[Client], Awaitable[int]]


@dataclass(frozen=True)
class Attack:
    """An attack that can be repeated.

    Attributes:
      name: Unique name.
      area: Targeted part of the server.
      send: Sends it once; returns the response's status, CLOSED or LEFT.
      allowed: Allowed statuses, in addition to BUSY and LEFT.
      n_clients: Concurrent clients.
      quick: Ends within a moment, whatever the server does; suitable for mixed attacks.
      needs: Required server feature: "tools", "embeddings" or "" (none).
    """

    name: str
    area: str
    send: Send
    allowed: frozenset[int]
    n_clients: int = 2
    quick: bool = True
    needs: str = ""


def as_json(body: Any) -> bytes:
    """Escapes lone surrogates; writes NaN as Python does."""
    return json.dumps(body).encode()


def post(path: str, make: Callable[[], Any], patience_s: float = 15) -> Send:
    """Sends a body that is created once, at first use."""
    content = functools.cache(lambda: as_json(make()))

    async def send(client: Client) -> int:
        return await client.ask("POST", path, content(), patience_s=patience_s)

    return send


def post_unique(path: str, make: Callable[[str], Any], patience_s: float = 15) -> Send:
    """Sends a new body each time."""

    async def send(client: Client) -> int:
        return await client.post(path, make(client.unique()), patience_s=patience_s)

    return send


def chat(content: Any = "Hi", **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "user": "bad"}
    return {**body, **fields}


def completion(prompt: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": 8, "user": "bad", **fields}


def tool(parameters: Any = None, name: str = "f", **fields: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {}} if parameters is None else parameters
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def object_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def calling(arguments: str, **fields: Any) -> dict[str, Any]:
    """A conversation with a tool call."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Call it."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    return {"messages": messages, "max_tokens": 8, "user": "bad", **fields}
