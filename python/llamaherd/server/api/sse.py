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
    """An answer that comes piece by piece.

    The first piece is awaited before the answer begins, so that what goes wrong until then has a
    status of its own; later an error is the last event. A client that goes away cancels the work,
    and so does whatever ends the answer.

    Args:
      first: The first piece.
      rest: Those that follow.
      cancel: Ends the work; called in any case.
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
        """What the answer needs until its end."""
        self._stack = stack

    @classmethod
    async def begin(
        cls, request: Request, pieces: AsyncIterator[bytes], cancel: Callable[[], None]
    ) -> EventStream:
        """Raises what goes wrong before the first piece, that the client goes away included."""
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
