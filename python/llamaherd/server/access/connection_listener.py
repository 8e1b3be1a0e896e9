"""Accepts a bounded number of connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from llamaherd.server.access.http_protocol import BoundedProtocol

_logger = logging.getLogger("llamaherd.server")
_BACKLOG = 2048
# Bytes of a response buffered by the kernel (Linux doubles it). Progress is reported per part of
# # the buffer: with a larger one a slow client would look stalled.
_SEND_BYTES = 1 << 17
_POLL_S = 0.25
_RETRY_S = 0.1
_LOG_EVERY_S = 10.0
_LOCALHOST = "localhost"
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT)
_MOST_TRIES = 20  # for a port that is free on all addresses

# Makes the protocol of a connection. Arguments: whether the connection is reserved, and a callback
# # for its end.
MakeProtocol = Callable[[bool, Callable[[BoundedProtocol], None]], BoundedProtocol]


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets of one port for all addresses of a host; 0: any port free on all of them.

    localhost is 127.0.0.1 and, if this machine has it, ::1: clients try either first.

    Raises:
      OSError: The address does not exist, or the port is in use.
    """
    for _ in range(_MOST_TRIES - 1):
        with contextlib.suppress(_PortTaken):
            return _listen(host, port)
    return _listen(host, port)


class _PortTaken(OSError):
    """The port that was free on the first address is in use on another one."""


def _listen(host: str, port: int) -> list[socket.socket]:
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, address in _addresses(host, port):
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                made = _open(family, (address[0], chosen, *address[2:]))
            except OSError as error:
                if host == _LOCALHOST and sockets and error.errno in _NO_IPV6:
                    continue
                if port == 0 and sockets and error.errno == errno.EADDRINUSE:
                    raise _PortTaken(error.errno, error.strerror) from None
                raise
            sockets.append(opened.enter_context(made))
        opened.pop_all()
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    if host == _LOCALHOST:
        # Not what it resolves to: name services of containers often have one of the two only.
        return [
            (socket.AF_INET, ("127.0.0.1", port)),
            (socket.AF_INET6, ("::1", port, 0, 0)),
        ]
    try:
        infos = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:  # from the encoding of names
        raise OSError(f"it is no host name: {error}") from None
    return list(dict.fromkeys((info[0], info[4]) for info in infos))


def _open(family: int, address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


class ConnectionListener:
    """Accepts connections of listening sockets.

    If max_connections are open, a new connection replaces the one that has been idle for longest.
    If
    all of them are processing requests, the new one is a reserved connection.

    Args:
      sockets: Non-blocking listening sockets; closed by `close`.
      make_protocol: Makes a connection's protocol.
      max_connections: Maximum open connections.
      n_reserve: Additional reserved connections.
      context: TLS context; None: plain HTTP.
      handshake_timeout_s: Timeout of the TLS handshake, in seconds.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: MakeProtocol,
        *,
        max_connections: int,
        n_reserve: int,
        context: ssl.SSLContext | None = None,
        handshake_timeout_s: float = 60,
    ) -> None:
        self.sockets = tuple(sockets)
        self._make_protocol = make_protocol
        self._max = max_connections
        self._n_reserve = n_reserve
        self._context = context
        self._handshake_timeout_s = handshake_timeout_s
        self._open: dict[BoundedProtocol, asyncio.Task[None]] = {}  # and its start task
        self._freed = asyncio.Event()
        self._log = _RateLimitedLog()
        self._tasks = [asyncio.ensure_future(self._accept(made)) for made in sockets]
        self._tasks.append(asyncio.ensure_future(self._check()))

    def close(self) -> None:
        """Stop accepting. Open connections continue."""
        for task in self._tasks[:-1]:
            task.cancel()
        for made in self.sockets:
            made.close()

    async def wait_closed(self) -> None:
        """End the tasks that check open connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                self._log.error("cannot accept connections: %s", error)
                self._evict()
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                is_reserve = await self._place()
            except BaseException:
                connection.close()
                raise
            protocol = self._make_protocol(is_reserve, self._leave)
            self._open[protocol] = loop.create_task(self._begin(connection, protocol))
            await asyncio.sleep(0)  # let other tasks run during a flood of connections

    async def _place(self) -> bool:
        """Wait for a free connection; whether it is a reserved one."""
        while True:
            if len(self._open) >= self._max:
                self._evict()
            if len(self._open) < self._max:
                return False
            self._log.error("all %d connections are in use; raise limit max_connections", self._max)
            if len(self._open) < self._max + self._n_reserve:
                return True
            self._freed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._freed.wait(), _RETRY_S)

    def _evict(self) -> None:
        """Close the connection that has been idle for longest."""
        idle = {p: since for p in self._open if (since := p.idle_since) is not None}
        if idle:
            protocol = min(idle, key=lambda p: idle[p])
            task = self._open.pop(protocol)
            if protocol.transport is None:
                task.cancel()
            else:
                protocol.transport.abort()

    async def _begin(self, connection: socket.socket, protocol: BoundedProtocol) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_timeout_s if self._context else None,
            )
        except (OSError, asyncio.TimeoutError):  # TLS handshake
            self._leave(protocol)
        except BaseException:
            self._leave(protocol)
            raise

    def _leave(self, protocol: BoundedProtocol) -> None:
        self._open.pop(protocol, None)
        self._freed.set()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            now = time.monotonic()
            for protocol in list(self._open):
                _check(protocol, now)


def _check(protocol: BoundedProtocol, now: float) -> None:
    try:
        protocol.check(now)
    except Exception:
        _logger.exception("checking a connection failed")
        protocol.transport.abort()


class _RateLimitedLog:
    """Logs at most one line per _LOG_EVERY_S; the next line has the number of suppressed ones."""

    def __init__(self) -> None:
        self._at = -_LOG_EVERY_S
        self._n_left_out = 0

    def error(self, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._at < _LOG_EVERY_S:
            self._n_left_out += 1
            return
        _logger.error(message, *values, extra={"n_left_out": self._n_left_out})
        self._at, self._n_left_out = now, 0
