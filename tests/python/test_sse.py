"""Responses that are streamed as server-sent events, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from llamaherd.server import ServerSettings
from llamaherd.server.api.sse import DONE, KEEP_ALIVE, EventStream, event
from llamaherd.server.common.errors import ApiError
from starlette.requests import Request
from starlette.types import Message

QUICK = ServerSettings(stream_start_s=0.05, stream_keep_alive_s=0.05)
PATIENT = ServerSettings(stream_start_s=60, stream_keep_alive_s=60)
A, B = event({"text": "a"}), event({"text": "b"})


class Exchange:
    """One request: its events come when they may, its response is recorded."""

    def __init__(self, settings: ServerSettings, pieces: list[bytes | Exception]) -> None:
        self.settings = settings
        self.pieces = pieces
        self.may_go_on = asyncio.Event()
        self.left = asyncio.Event()
        self.sent: list[Message] = []
        self.n_cancelled = 0
        self.is_stopped = False  # cancelled while it waited
        self.is_closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            for piece in self.pieces:
                await self.may_go_on.wait()
                if self.is_stopped:
                    raise ApiError(503, "cancelled")
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.is_closed = True

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def cancel(self) -> None:
        self.n_cancelled += 1
        if not self.may_go_on.is_set():
            self.is_stopped = True
            self.may_go_on.set()

    async def run(self, progress: Callable[[], bytes | None] | None = None) -> None:
        request = Request({"type": "http"}, self.receive)
        stream = await EventStream.begin(
            request, self.events(), self.cancel, self.settings, progress
        )
        await stream({"type": "http"}, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def until_sent(self, text: bytes) -> None:
        for _ in range(3000):
            if text in self.body:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"{text!r} is not sent")


async def test_events_that_come_at_once_are_all_there_is() -> None:
    exchange = Exchange(PATIENT, [A, B, DONE])
    exchange.may_go_on.set()
    await exchange.run()
    start, *bodies = exchange.sent
    assert start["status"] == 200
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"content-length" not in headers
    assert [message["body"] for message in bodies] == [A, B, DONE, b""]
    assert [message["more_body"] for message in bodies] == [True, True, True, False]
    assert exchange.n_cancelled
    assert exchange.is_closed


async def test_headers_and_comments_come_before_a_late_event() -> None:
    exchange = Exchange(QUICK, [A, DONE])
    running = asyncio.ensure_future(exchange.run())
    await exchange.until_sent(3 * KEEP_ALIVE)
    assert exchange.sent[0]["status"] == 200
    assert exchange.body.replace(KEEP_ALIVE, b"") == b""
    exchange.may_go_on.set()
    await running
    assert exchange.body.replace(KEEP_ALIVE, b"") == A + DONE


async def test_comments_come_between_events_too() -> None:
    exchange = Exchange(QUICK, [A, B])
    exchange.may_go_on.set()

    async def pause(message: Message) -> None:
        exchange.sent.append(message)
        if message.get("body") == A:
            exchange.may_go_on.clear()

    exchange.send = pause  # type: ignore[method-assign]
    running = asyncio.ensure_future(exchange.run())
    await exchange.until_sent(A + 2 * KEEP_ALIVE)
    exchange.may_go_on.set()
    await running
    assert exchange.body.replace(KEEP_ALIVE, b"") == A + B
    assert exchange.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_an_error_in_time_sets_the_status_and_a_late_one_is_the_last_event() -> None:
    error = ApiError(429, "full", code="queue_full")
    exchange = Exchange(PATIENT, [error])
    exchange.may_go_on.set()
    with pytest.raises(ApiError, match="full"):
        await exchange.run()
    assert not exchange.sent
    assert exchange.n_cancelled

    for pieces in ([error], [A, error]):
        exchange = Exchange(QUICK, pieces)
        running = asyncio.ensure_future(exchange.run())
        await exchange.until_sent(KEEP_ALIVE)
        exchange.may_go_on.set()
        await running
        assert exchange.sent[0]["status"] == 200
        *_, last = exchange.body.split(b"\n\n")[:-1]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "queue_full"


@pytest.mark.parametrize("settings", [PATIENT, QUICK])
async def test_a_client_that_leaves_while_it_waits_ends_the_work(settings: ServerSettings) -> None:
    exchange = Exchange(settings, [A, B])
    running = asyncio.ensure_future(exchange.run())
    if settings is QUICK:
        await exchange.until_sent(KEEP_ALIVE)
        exchange.left.set()
        await running
    else:
        await asyncio.sleep(0.02)
        exchange.left.set()
        with pytest.raises(ApiError, match="cancelled"):
            await running
        assert not exchange.sent
    assert exchange.n_cancelled
    assert exchange.is_closed
    assert A not in exchange.body


async def test_a_response_that_is_given_up_closes_its_events() -> None:
    exchange = Exchange(PATIENT, [A, B])
    exchange.may_go_on.set()

    async def refuse(message: Message) -> None:
        raise OSError("the connection is lost")

    exchange.send = refuse  # type: ignore[method-assign]
    with pytest.raises(OSError, match="lost"):
        await exchange.run()
    assert exchange.n_cancelled
    assert exchange.is_closed


async def test_progress_is_sent_while_no_event_comes() -> None:
    news = [None, event({"progress": 1}), None, event({"progress": 2})]

    def progress() -> bytes | None:
        return news.pop(0) if news else None

    exchange = Exchange(QUICK, [A])
    running = asyncio.ensure_future(exchange.run(progress))
    await exchange.until_sent(b'{"progress":2}')
    exchange.may_go_on.set()
    await running
    told = exchange.body.replace(KEEP_ALIVE, b"")
    assert told == event({"progress": 1}) + event({"progress": 2}) + A
    assert KEEP_ALIVE in exchange.body


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"stream_start_s": -1}, "stream_start_s must be >= 0; got -1"),
        ({"stream_keep_alive_s": 0}, "stream_keep_alive_s must be > 0; got 0"),
    ],
)
def test_times_have_a_range(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ServerSettings(**options)
