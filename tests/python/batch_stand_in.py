"""Batches whose lines are answered without a model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from llamaherd.server.access.api_keys import KeyRing
from llamaherd.server.access.running_counts import RunningCounts
from llamaherd.server.batch_api.batch_service import BatchService, open_batches
from llamaherd.server.batch_api.batch_store import Batch
from llamaherd.server.batch_api.database import UNFINISHED
from llamaherd.server.batch_api.file_store import StoredFile
from llamaherd.server.batch_api.internal_client import InternalHttpClient
from llamaherd.server.common.errors import install_handlers
from llamaherd.server.common.limits import Limits
from llamaherd.server.observability.spans import Spans
from starlette.responses import JSONResponse, Response, StreamingResponse

COMPLETIONS = "/v1/completions"
IDS = [f"id-{i}" for i in range(5)]


def line_of(custom_id: str, **fields: Any) -> dict[str, Any]:
    line = {"custom_id": custom_id, "method": "POST", "url": COMPLETIONS}
    return {**line, "body": {"prompt": custom_id}, **fields}


async def _half() -> AsyncIterator[bytes]:
    yield b'{"text": '
    raise ValueError("an answer that breaks off")


LIMITS = Limits(max_body_mib=1000 / (1 << 20))
LINES = [*map(line_of, IDS), line_of(IDS[0])]


class Routes:
    """Answers each prompt with itself, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.n_busy = 0
        self.hangs = False
        self.open = asyncio.Event()
        self.open.set()
        self.app = FastAPI()
        install_handlers(self.app)
        self.app.post(COMPLETIONS)(self._complete)
        self.n_beside: dict[str, int] = {}  # requests that ran when a prompt came
        self._n_running = 0
        self.killers: frozenset[str] = frozenset()

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.n_beside[body["prompt"]] = self._n_running
        self._n_running += 1
        try:
            return await self._answer(request, body)
        finally:
            self._n_running -= 1

    async def _answer(self, request: Request, body: dict[str, Any]) -> Response:
        self.asked.append(body["prompt"])
        if body["prompt"] in self.killers:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.wait_for(self.open.wait(), 20)
        await asyncio.sleep(0.002)
        if self.hangs:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return JSONResponse({"error": {"code": "cancelled"}}, 503)
        if self.n_busy > 0:
            self.n_busy -= 1
            error = {"error": {"message": "busy", "code": "queue_full"}}
            return JSONResponse(error, 429, {"retry-after": "0.01"})
        if body["prompt"] == "half":
            return StreamingResponse(_half())
        if body["prompt"] == IDS[3]:
            raise ValueError("a bug")
        return JSONResponse({"text": body["prompt"], "priority": body["priority"]})


@contextlib.asynccontextmanager
async def batches_in(
    folder: Path,
    routes: Routes,
    running: RunningCounts | None = None,
    n_lines: int = 2,
    limits: Limits = LIMITS,
) -> AsyncIterator[BatchService]:
    async with open_batches(
        folder,
        InternalHttpClient(routes.app, Spans()),
        KeyRing(),
        running or RunningCounts(),
        n_lines=n_lines,
        limits=limits,
        draining=lambda: False,
    ) as batches:
        yield batches


async def keep(batches: BatchService, data: bytes, **options: Any) -> StoredFile:
    with batches.files.draft("") as draft:
        draft.write(data)
        draft.keep()
        file = batches.files.describe(draft, "x", "batch", **options)
        await batches.files.add(draft, file)
    return file


async def begin(
    batches: BatchService,
    window_s: int = 3600,
    lines: Sequence[dict[str, Any]] = LINES,
    **options: Any,
) -> Batch:
    data = "\n".join(map(json.dumps, lines)).encode()
    file = await keep(batches, data, **options)
    batch = await batches.store.add("", COMPLETIONS, file, ("1h", window_s), {})
    batches.runner.start(batch)
    return batch


async def end(batches: BatchService, batch: Batch) -> Batch:
    deadline = time.monotonic() + 20
    while (found := await batches.store.get(batch.id)).status in UNFINISHED:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.002)
    return found


async def require_whole(batches: BatchService, batch: Batch, folder: Path) -> None:
    """Each line has come once, and nothing else lies about."""
    assert (batch.status, batch.n_total, batch.n_completed, batch.n_failed) == (
        "completed", 6, 4, 2,
    )  # fmt: skip
    written = []
    for file_id in (batch.output_file_id, batch.error_file_id):
        assert file_id
        path = batches.files.path(await batches.files.find(file_id, ""))
        written.append([json.loads(line) for line in path.read_text().splitlines()])
    assert [line["custom_id"] for line in written[0]] == [IDS[i] for i in (0, 1, 2, 4)]
    assert all(line["response"]["body"]["priority"] == 100 for line in written[0])
    bug, twice = written[1]
    assert (bug["custom_id"], bug["response"]["status_code"]) == (IDS[3], 500)
    assert (twice["custom_id"], twice["error"]["code"]) == (IDS[0], "duplicate_custom_id")
    assert len(list((folder / "files").iterdir())) == 3
    assert not await batches.store.pending(batch, 0, 1)
