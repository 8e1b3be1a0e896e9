"""Server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llamaherd.server.api.json_stream import encoded
from llamaherd.server.common.disconnect import watching
from llamaherd.server.common.errors import api_error
from llamaherd.server.common.settings import ServerSettings

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_PROGRESS_S = 0.5  # interval of progress events


def event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {''.join(encoded(data))}\n\n".encode()


class EventStream(Response):
    """A response streamed as server-sent events.

    The headers are sent with the first event, or without it after stream_start_s. An error before
    them sets the HTTP status; a later error is sent as the last event. A comment is sent after each
    stream_keep_alive_s without an event, so that neither proxies nor clients time out.
    The work is cancelled when the client disconnects or the response ends for any other reason.

    Args:
      first: Waits for the first event.
      rest: The following events; closed with the response.
      cancel: Ends the events early; always called.
      settings: stream_start_s, stream_keep_alive_s.
      progress: Called while no event comes: an event to send, or None.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: asyncio.Future[bytes],
        rest: AsyncGenerator[bytes, None],
        cancel: Callable[[], None],
        settings: ServerSettings,
        progress: Callable[[], bytes | None] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._cancel = cancel
        self._keep_alive_s = settings.stream_keep_alive_s
        self._progress = progress
        self._sent_s = 0.0

    @classmethod
    async def begin(
        cls,
        request: Request,
        events: AsyncGenerator[bytes, None],
        cancel: Callable[[], None],
        settings: ServerSettings,
        progress: Callable[[], bytes | None] | None = None,
    ) -> EventStream:
        """Await the first event, at most stream_start_s. Raises its error, also if the client
        disconnects before it."""
        first = asyncio.ensure_future(anext(events))
        first.add_done_callback(_retrieve)
        try:
            async with watching(request.receive, cancel):
                await asyncio.wait({first}, timeout=settings.stream_start_s)
            if first.done():
                first.result()
        except BaseException:
            cancel()
            raise
        return cls(first, events, cancel, settings, progress)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()

        async def put(body: bytes, more: bool = True) -> None:
            self._sent_s = loop.time()
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
                if not self._first.done():
                    await put(KEEP_ALIVE)  # some proxies forward no headers without a body
                await self._put_events(put)
                await put(b"", more=False)
        finally:
            self._cancel()
            await asyncio.wait({self._first})
            await self._rest.aclose()

    async def _put_events(self, put: Callable[[bytes], Awaitable[None]]) -> None:
        filling = asyncio.ensure_future(self._fill_silence(put))
        try:
            await put(await self._first)
            async for piece in self._rest:
                await put(piece)
        except Exception as error:
            await put(event(api_error(error).body))
        finally:
            filling.cancel()

    async def _fill_silence(self, put: Callable[[bytes], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        period_s = self._keep_alive_s
        if self._progress is not None:
            period_s = min(period_s, _PROGRESS_S)
        while True:
            left_s = self._sent_s + period_s - loop.time()
            await asyncio.sleep(left_s if left_s > 0 else period_s)
            silent_s = loop.time() - self._sent_s
            piece = self._progress() if self._progress and silent_s >= period_s else None
            if piece is None and silent_s >= self._keep_alive_s:
                piece = KEEP_ALIVE
            if piece is not None:
                await put(piece)


def _retrieve(first: asyncio.Future[bytes]) -> None:
    """Mark the error as retrieved: it is not logged if the client has left before it."""
    if not first.cancelled():
        first.exception()
