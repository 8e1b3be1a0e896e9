"""Background load in separate processes: streaming clients, and a /health prober."""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp

SPAWN = multiprocessing.get_context("spawn")
HEALTH_TIMEOUT_S = 10.0


class Seen:
    """Reports of a background process, as (time of time.monotonic(), value)."""

    def __init__(self, reports: Any) -> None:
        self._reports = reports
        self._seen: list[tuple[float, Any]] = []

    def between(self, begin: float, end: float) -> list[Any]:
        with suppress(queue.Empty):
            while True:
                self._seen.append(self._reports.get(timeout=0.01))
        self._seen = [report for report in self._seen if report[0] >= begin]
        return [value for at, value in self._seen if at <= end]


@contextmanager
def _process(run: Any, *args: Any) -> Iterator[Seen]:
    reports = SPAWN.Queue()
    process = SPAWN.Process(target=run, args=(*args, reports), daemon=True)
    process.start()
    try:
        yield Seen(reports)
    finally:
        process.kill()
        process.join()


def probing(url: str) -> Any:
    """Requests /health every 50 ms on a new connection; reports response times in seconds."""
    return _process(_probe, url)


def _probe(url: str, reports: Any) -> None:
    address = urlsplit(url)
    while True:
        begin = time.monotonic()
        connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=HEALTH_TIMEOUT_S
        )
        try:
            connection.request("GET", "/health")
            good = connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            good = False
        finally:
            connection.close()
        took = time.monotonic() - begin
        reports.put((begin, took if good else max(took, HEALTH_TIMEOUT_S)))
        time.sleep(max(0, 0.05 - took))


def streaming(url: str, n_clients: int, n_tokens: int) -> Any:
    """Clients that stream continuously; report seconds between two deltas, or an error message.
    Retries after 429 or 503."""
    return _process(_stream, url, n_clients, n_tokens)


def _stream(url: str, n_clients: int, n_tokens: int, reports: Any) -> None:
    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*[client(session, i) for i in range(n_clients)])

    async def client(session: aiohttp.ClientSession, i: int) -> None:
        body = {
            "messages": [{"role": "user", "content": f"Tell story number {i}."}],
            "max_tokens": n_tokens,
            "ignore_eos": True,
            "stream": True,
            "user": "good",
        }
        while True:
            try:
                problem = await one(session, body)
            except (aiohttp.ClientError, ConnectionError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
            if problem:
                reports.put((time.monotonic(), problem))
                await asyncio.sleep(0.2)

    async def one(session: aiohttp.ClientSession, body: dict[str, Any]) -> str:
        last_s, reason, line = 0.0, None, b""
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            if answer.status in (429, 503):
                await asyncio.sleep(0.2)
                return ""
            if answer.status != 200:
                return f"{answer.status}: {(await answer.text())[:200]}"
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                now = time.monotonic()
                event = json.loads(line[6:])
                if "error" in event:
                    return str(event["error"])
                (choice,) = event["choices"]
                reason = choice["finish_reason"] or reason
                if choice["delta"].get("content"):
                    if last_s:
                        reports.put((now, now - last_s))
                    last_s = now
        return "" if reason == "length" else f"a stream ended with finish_reason {reason}"

    asyncio.run(run())
