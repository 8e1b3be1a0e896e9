"""HTTP/1.1 protocol with limits on sizes and times of requests and responses."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits

_logger = logging.getLogger("llamaherd.server")
_MOST_UNREAD = 1 << 18  # bytes of a body received after its response
_LINGER_S = 1.0
_DISCARD_S = 5.0
# Bytes of a rejected body: one with a declared length up to the first value is read to its end.
_MOST_DECLARED, _MOST_DISCARDED = 64 << 20, 16 << 20
_LEAST_RATE = 1024  # bytes/s of a body
_STATE_PATHS = ("/health", "/ready")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE_AFTER_S = 0.5


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
      config: Configuration of uvicorn.
      state: Server state of uvicorn.
      limits: Limits on sizes and times.
      is_reserve: The connection is reserved: it serves one request, either to _STATE_PATHS or with
        an
        error response.
      on_lost: Called when the connection is closed.

    `check` must be called several times a second.
    """

    def __init__(
        self,
        config: Config,
        state: ServerState,
        limits: Limits,
        *,
        is_reserve: bool,
        on_lost: Callable[[BoundedProtocol], None],
    ) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        if is_reserve:
            self.app: Any = _Reserve(config.loaded_app)
        self.timeout_keep_alive: Any = limits.keep_alive_timeout_s
        self._limits = limits
        self._is_reserve = is_reserve
        self._on_lost = on_lost
        self._in_headers = True
        self._n_header_bytes = 0
        self._n_frame_bytes = 0  # chunk framing received since the last piece of the body
        self._head_at = time.monotonic()  # start of the wait for a request
        self._body_at = self._body_since = 0.0  # time of last progress, start time
        self._n_body = 0
        self._n_unread = 0
        self._lingers = False
        self._n_discarded = self._most_discarded = 0
        self._half_closed_at: float | None = None
        self._has_probed = False
        self._unanswered: list[Any] = []  # requests, the oldest first
        self.n_written = 0
        self._n_sent = 0
        self._sent_at = 0.0

    # Reading requests.

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            self._n_discarded += len(data)
            if self._n_discarded > self._most_discarded:
                self.transport.close()
            return
        if self._in_headers:
            if not self._n_header_bytes and self.cycle is not None:
                self._head_at = time.monotonic()
            self._n_header_bytes += len(data)
        self._n_frame_bytes += len(data)
        super().data_received(data)
        most = self._limits.most("max_header_kib")
        if self._in_headers and self._n_header_bytes > most:
            what = "headers must hold"
            self.end(self._limits.error("max_header_kib", self._n_header_bytes, what=what))
        elif not self._in_headers and self._n_frame_bytes > most:
            self._end_frame()

    def _end_frame(self) -> None:
        """The parser buffers a trailer until its end."""
        if self._lingers or self.cycle.response_complete:
            self.close()
            return
        what = "trailers and extensions of a chunk must hold"
        self.end(self._limits.error("max_header_kib", self._n_frame_bytes, what=what))

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._n_body = self._n_frame_bytes = 0
        self._body_at = self._body_since = time.monotonic()
        super().on_headers_complete()
        self.cycle.transport = _Connection(self)  # type: ignore[assignment]
        self._unanswered = [cycle for cycle in self._unanswered if not cycle.response_complete]
        self._unanswered.append(self.cycle)
        if self._is_reserve:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._n_body += len(body)
        self._n_frame_bytes = 0
        self._body_at = time.monotonic()
        if self.cycle.response_complete:
            self._n_unread += len(body)
            if self._n_unread > _MOST_UNREAD:
                self.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_headers = True
        self._n_header_bytes = self._n_unread = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self.end(ApiError(400, msg))

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client may half-close after its request and still read the response. TLS has no
        half-closed state."""
        if self.scheme != "http" or not self._in_headers or not self._is_answering():
            return False
        self._half_closed_at = time.monotonic()
        self.cycle.keep_alive = False
        return True

    # Writing responses.

    def on_response_complete(self) -> None:
        if self._lingers:
            return
        self._head_at = time.monotonic()
        super().on_response_complete()
        if self._half_closed_at is not None and not self._is_answering():
            self.transport.close()

    def close(self) -> None:
        """Close after pending writes. Closing while the client sends would reset the connection,
        and
        clients that read only after sending would lose the response: received data is discarded for
        _DISCARD_S, up to a number of bytes."""
        if self._in_headers:
            self.transport.close()
        elif not self._lingers:
            self._lingers = True
            n_declared = int(dict(self.headers).get(b"content-length", 0))
            is_small = 0 < n_declared <= _MOST_DECLARED
            self._most_discarded = n_declared if is_small else _MOST_DISCARDED
            self.flow.resume_reading()
            self.loop.call_later(_DISCARD_S, self.transport.close)

    def end(self, error: ApiError) -> None:
        """Close the connection; send an error first if no response has started."""
        if self._lingers or self.transport.is_closing():
            return
        if not self.pipeline and not (self._is_answering() and self.cycle.response_started):
            self.write(_raw(error))
        self._lingers = True
        self.flow.pause_reading()
        self.loop.call_later(_LINGER_S, self.transport.close)
        self._disconnect()

    def _disconnect(self) -> None:
        """Signal the disconnect to all requests of the connection."""
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def write(self, data: bytes) -> None:
        self.n_written += len(data)
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disconnect()
        self._on_lost(self)

    # Times.

    @property
    def idle_since(self) -> float | None:
        """Start of the idle period (time.monotonic()); None: a request is in progress."""
        if self.transport is None or self._lingers:  # in the TLS handshake, or closing
            return self._head_at
        if not self._in_headers or self._is_answering() or self.transport.get_write_buffer_size():
            return None
        return self._head_at

    def check(self, now: float) -> None:
        """Close the connection if a time limit is exceeded."""
        if self.transport is None:  # the TLS handshake has its own timeout
            return
        self._check_write(now)
        if self.transport.is_closing() or self._lingers:
            return
        if not self._in_headers:
            self._check_body(now)
        elif self._waits_for_head() and now - self._head_at > self._limits.header_timeout_s:
            self._end_head()
        if self._half_closed_at is not None:
            self._check_half_closed(now)

    def _check_write(self, now: float) -> None:
        n_buffered = self.transport.get_write_buffer_size()
        n_sent = self.n_written - n_buffered
        if not n_buffered or n_sent != self._n_sent:
            self._n_sent, self._sent_at = n_sent, now
        elif now - self._sent_at > self._limits.write_timeout_s:
            _logger.info("client stopped reading; connection closed", extra={"bytes": n_buffered})
            self.transport.abort()

    def _check_body(self, now: float) -> None:
        # Received data is not consumed yet, or the client waits for "100 Continue".
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._body_since += now - self._body_at
            self._body_at = now
        timeout_s = self._limits.body_timeout_s
        until = self._body_since + timeout_s + self._n_body / _LEAST_RATE
        if now - self._body_at > timeout_s or now > until:
            message = (
                f"the body must arrive without a pause of {timeout_s:g} s and at {_LEAST_RATE} "
                "bytes/s or more (limit body_timeout_s)"
            )
            self.end(ApiError(408, message, code="request_timeout"))

    def _end_head(self) -> None:
        if not self._n_header_bytes:
            self.transport.close()
            return
        message = (
            f"the headers must arrive within {self._limits.header_timeout_s:g} s "
            "(limit header_timeout_s)"
        )
        self.end(ApiError(408, message, code="request_timeout"))

    def _check_half_closed(self, now: float) -> None:
        """Send one interim response to detect a client that has closed both directions: its system
        sends
        a reset. HTTP/1.1 clients ignore interim responses; some ignore only one."""
        assert self._half_closed_at is not None
        if _has_failed(self.transport):
            self.transport.abort()
            return
        may_probe = not self.pipeline and not self.cycle.response_started
        if not may_probe or self.cycle.scope["http_version"] != "1.1":
            return
        if not self._has_probed and now - self._half_closed_at > _PROBE_AFTER_S:
            self._has_probed = True
            self.write(_CONTINUE)

    def _waits_for_head(self) -> bool:
        """Excludes the time between two requests, which keep_alive_timeout_s limits."""
        return not self._is_answering() and (self._n_header_bytes > 0 or self.cycle is None)

    def _is_answering(self) -> bool:
        return self.cycle is not None and (not self.cycle.response_complete or bool(self.pipeline))


class _Connection:
    """The transport of a request; write and close go through the protocol."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self.write = protocol.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.close


class _Reserve:
    """Application of reserved connections."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _STATE_PATHS:
            await self._app(scope, receive, send)
            return
        error = ApiError(
            503,
            "all connections are in use (limit max_connections); try again later",
            code="too_many_connections",
            retry_after_s=1,
        )
        await error.response()(scope, receive, send)


def _raw(error: ApiError) -> bytes:
    """An error response as bytes, with `connection: close`."""
    response = error.response()
    lines = [b"%b: %b\r\n" % header for header in response.raw_headers]
    head = b"".join([STATUS_LINE[error.status], *lines, b"connection: close\r\n\r\n"])
    return head + bytes(response.body)


def _has_failed(transport: asyncio.Transport) -> bool:
    return bool(transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
