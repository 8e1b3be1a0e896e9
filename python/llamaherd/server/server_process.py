"""The server process."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import signal
import socket
import threading
import time
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.server.access.connection_listener import ConnectionListener, listen
from llamaherd.server.access.descriptors import fit_connections
from llamaherd.server.access.http_protocol import BoundedProtocol
from llamaherd.server.batch_api.batch_service import BatchService
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.jobs.context import Context

_logger = logging.getLogger("llamaherd.server")
_MALLOC_ARENAS = 2  # shared by all threads, so that freed memory is reused by other threads
_END_S = 30.0  # after the drain; then the process ends even if threads are stuck


class Server(uvicorn.Server):
    """Runs until stopped. On SIGTERM or SIGINT new requests are rejected; running requests have
    drain_timeout_s seconds and then end with an error. The process exits immediately on a second
    signal, or if it has not ended _END_S after the drain."""

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                ssl_certfile=_path(settings.tls_certificate),
                ssl_keyfile=_path(settings.tls_key),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(settings.drain_timeout_s) + 5,
                http="httptools",
                lifespan="off",
                ws="none",
            )
        )
        self._load_config()
        self._life = contextlib.AsyncExitStack()
        self._draining: asyncio.Task[None] | None = None

    def _load_config(self) -> None:
        certificate, key = self._settings.tls_certificate, self._settings.tls_key
        try:
            self.config.load()
        except OSError as error:  # includes SSLError
            raise InvalidRequestError(
                f"cannot use the TLS certificate {certificate} with the key {key}: "
                f"{error.strerror or error}"
            ) from None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises exceptions of the application, which uvicorn would only log."""
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED_SIGNALS:
                _core.reset_at_signal(number)
            _core.limit_malloc_arenas(_MALLOC_ARENAS)
        async with self._life:
            await self._life.enter_async_context(self._app.router.lifespan_context(self._app))
            try:
                self._listen(sockets)
            except OSError as error:
                _logger.error(
                    "cannot listen on %s port %d: %s", self.config.host, self.config.port, error
                )
                self.should_exit = True
                return
            self._life = self._life.pop_all()

    def _listen(self, sockets: list[socket.socket] | None) -> None:
        """Replaces uvicorn's listener, which does not limit connections."""
        config = self.config
        limits = fit_connections(self._settings.limits)

        def make_protocol(is_reserve: bool, on_lost: Any) -> BoundedProtocol:
            return BoundedProtocol(
                config, self.server_state, limits, is_reserve=is_reserve, on_lost=on_lost
            )

        listener: Any = ConnectionListener(
            sockets or listen(config.host, config.port),
            make_protocol,
            max_connections=limits.max_connections,
            n_reserve=limits.reserved_connections,
            context=config.ssl,
            handshake_timeout_s=limits.header_timeout_s,
        )
        self.servers = [listener]
        self._log_started_message(listener.sockets)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        await self._life.aclose()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Start the drain and restore the signals' default actions, which end the process."""
        for number in HANDLED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        faulthandler.dump_traceback_later(self._settings.drain_timeout_s + _END_S, exit=True)
        self._app.state.draining = True
        _logger.info("stopping on %s", signal.Signals(sig).name)
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        context: Context = self._app.state.context
        until = time.monotonic() + self._settings.drain_timeout_s
        batches: BatchService | None = self._app.state.batches
        if batches is not None:
            # From here on a crash of the process is not attributed to lines of batches.
            await batches.store.end_cleanly()
        while context.jobs and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for job in list(context.jobs):
            job.cancel()
        while context.jobs and time.monotonic() < until + 5:
            await asyncio.sleep(0.02)
        self.should_exit = True

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listening socket, after startup; the others have its port."""
        sockets: list[socket.socket] = [s for server in self.servers for s in server.sockets]
        host, port = sockets[0].getsockname()[:2]
        return host, port


def _path(path: Any) -> str | None:
    return None if path is None else str(path)
