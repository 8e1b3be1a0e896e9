"""HTTP with a bound on what comes before a request's body."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)
_BODY = (
    b'{"error":{"message":"the headers are too large","type":"invalid_request_error",'
    b'"param":null,"code":null}}'
)


def bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """A protocol that ends connections whose request line and headers have more bytes; the parser
    itself would keep all of them."""

    class BoundedProtocol(HttpToolsProtocol):
        n_header_bytes = 0
        in_headers = True

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

        def on_message_complete(self) -> None:
            self.in_headers = True
            self.n_header_bytes = 0
            super().on_message_complete()

    return BoundedProtocol
