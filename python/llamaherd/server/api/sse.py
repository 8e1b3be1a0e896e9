"""Server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llamaherd.server.api.json_stream import encoded
from llamaherd.server.common.disconnect import watching
from llamaherd.server.common.errors import api_error

DONE = b"data: [DONE]\n\n"


def event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {''.join(encoded(data))}\n\n".encode()


class EventStream(Response):
    """A response streamed as server-sent events.

    The first event is awaited before the response starts, so that an earlier error sets the HTTP
    status; a later error is sent as the last event. The work is cancelled when the client
    disconnects
    or the response ends for any other reason.

    Args:
      first: The first event.
      rest: The following events.
      cancel: Cancels the work; always called.
    """

    media_type = "text/event-stream"

    def __init__(
        self, first: bytes, rest: AsyncIterator[bytes], cancel: Callable[[], None]
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._cancel = cancel
        self._stack = AsyncExitStack()

    def when_done(self, stack: AsyncExitStack) -> None:
        """Close `stack` when the response has ended."""
        self._stack = stack

    @classmethod
    async def begin(
        cls, request: Request, pieces: AsyncIterator[bytes], cancel: Callable[[], None]
    ) -> EventStream:
        """Await the first event. Raises its error, also if the client disconnects before it."""
        async with watching(request.receive, cancel):
            try:
                return cls(await anext(pieces), pieces, cancel)
            except BaseException:
                cancel()
                raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def put(body: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            async with watching(receive, self._cancel):
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                await put(self._first)
                try:
                    async for piece in self._rest:
                        await put(piece)
                except Exception as error:
                    await put(event(api_error(error).body))
                await put(b"", more=False)
        finally:
            self._cancel()
            await self._stack.aclose()
