"""HTTP with bounds on what comes before a request's body, and on what comes after its answer."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)
_BODY = (
    b'{"error":{"message":"the headers are too large","type":"invalid_request_error",'
    b'"param":null,"code":null}}'
)
_MOST_UNREAD = 1 << 18  # bytes of a body that come after its answer
_LINGER_S = 1.0


def bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """A protocol that ends connections whose request line and headers have more bytes; the parser
    itself would keep all of them. Of a body that nobody reads it takes a little, then no more."""

    class BoundedProtocol(HttpToolsProtocol):
        n_header_bytes = 0
        n_unread = 0
        in_headers = True
        lingers = False

        def data_received(self, data: bytes) -> None:
            if self.in_headers:
                self.n_header_bytes += len(data)
            super().data_received(data)
            too_large = self.in_headers and self.n_header_bytes > max_header_bytes
            if too_large and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE % (len(_BODY), _BODY))
                self.transport.close()

        def on_headers_complete(self) -> None:
            self.in_headers = False
            super().on_headers_complete()
            self.cycle.transport = _Connection(self)  # type: ignore[assignment]

        def on_body(self, body: bytes) -> None:
            if self.cycle.response_complete:
                self.n_unread += len(body)
                if self.n_unread > _MOST_UNREAD:
                    self.close()
            super().on_body(body)

        def on_message_complete(self) -> None:
            self.in_headers = True
            self.n_header_bytes = self.n_unread = 0
            super().on_message_complete()

        def on_response_complete(self) -> None:
            if not self.lingers:
                super().on_response_complete()

        def close(self) -> None:
            """Closing under a client that still sends would reset the connection, and the client
            might lose its answer: it has a moment to read it, and what it sends is not read."""
            if not self.cycle.more_body:
                self.transport.close()
            elif not self.lingers:
                self.lingers = True
                self.flow.pause_reading()
                self.loop.call_later(_LINGER_S, self.transport.close)

    return BoundedProtocol


class _Connection:
    """A request's connection, which it closes as its protocol does."""

    def __init__(self, protocol: Any) -> None:
        self._transport: asyncio.Transport = protocol.transport
        self.write = self._transport.write
        self.is_closing = self._transport.is_closing
        self.close = protocol.close
