"""What batches are made of, without a model: input lines, uploads, the database, the runner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI, Request
from llamaherd import EngineConfig, InvalidRequestError
from llamaherd.server import batch_runner
from llamaherd.server.batch_input import read_body, read_lines
from llamaherd.server.batch_store import UNFINISHED, Batch, BatchStore, Ended
from llamaherd.server.batches import Batches, lines_at_once, open_batches
from llamaherd.server.database import Database
from llamaherd.server.errors import install_handlers
from llamaherd.server.file_routes import router
from llamaherd.server.file_store import StoredFile
from llamaherd.server.generation import Context
from llamaherd.server.in_process import InProcess
from llamaherd.server.keys import ANYONE, ApiKey, KeyRing
from llamaherd.server.running import Running
from llamaherd.server.settings import ServerSettings
from llamaherd.server.spans import Spans
from starlette.responses import JSONResponse, Response

T = TypeVar("T")
COMPLETIONS = "/v1/completions"
IDS = [f"id-{i}" for i in range(5)]


def line_of(custom_id: str, **fields: Any) -> dict[str, Any]:
    line = {"custom_id": custom_id, "method": "POST", "url": COMPLETIONS}
    return {**line, "body": {"prompt": custom_id}, **fields}


def lines_of(path: Path, data: bytes, max_bytes: int = 200) -> list[tuple[int, Any, str | None]]:
    path.write_bytes(data)
    found = read_lines(path, COMPLETIONS, max_bytes)
    return [(x.number, x.custom_id, x.error.code if x.error else None) for x in found]


def test_lines_are_found_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    good = [json.dumps(line_of(f"é{i}"), ensure_ascii=False).encode() for i in range(4)]
    data = b"\xef\xbb\xbf" + good[0] + b"\r\n\n" + good[1] + b"\n   \n" + good[2] + b"\n" + good[3]
    assert lines_of(path, data) == [
        (1, "é0", None),
        (3, "é1", None),
        (5, "é2", None),
        (6, "é3", None),
    ]
    bodies = [read_body(path, x.begin, x.n_bytes) for x in read_lines(path, COMPLETIONS, 200)]
    assert bodies == [{"prompt": f"é{i}"} for i in range(4)]


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    good = json.dumps(line_of("a")).encode()
    exact = json.dumps(line_of("b", body={"prompt": "x" * 110})).encode()
    exact = exact.ljust(199) + b"\n"
    data = b"x" * 100_000 + b"\n" + exact + good + b"\n" + b"y" * 201
    assert lines_of(tmp_path / "lines", data) == [
        (1, None, "line_too_long"),
        (2, "b", None),
        (3, "a", None),
        (4, None, "line_too_long"),
    ]
    assert lines_of(tmp_path / "lines", b"") == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (b"[" * 100_000, "invalid_json_line"),
        (b"9" * 10_000, "invalid_json_line"),
        (b"{}", "missing_custom_id"),
        (json.dumps(line_of("")).encode(), "invalid_custom_id"),
        (json.dumps(line_of("x" * 513)).encode(), "invalid_custom_id"),
        (json.dumps(line_of("\ud800")).encode(), "invalid_custom_id"),
        (json.dumps({**line_of("a"), "custom_id": 5}).encode(), "invalid_custom_id"),
        (json.dumps(line_of("a", extra=1)).encode(), "unsupported_field"),
        (json.dumps(line_of("a", method="GET")).encode(), "invalid_method"),
        (json.dumps(line_of("a", url="/v1/embeddings")).encode(), "invalid_url"),
        (json.dumps(line_of("a", url=["x"])).encode(), "invalid_url"),
        (json.dumps(line_of("a", body="x")).encode(), "invalid_body"),
        (json.dumps(line_of("a", body={"stream": True})).encode(), "stream_not_supported"),
        (json.dumps(line_of("a", body={"stream": "yes"})).encode(), "stream_not_supported"),
        (json.dumps(line_of("a", body={"stream": None})).encode(), None),
    ],
)
def test_rules_of_lines(tmp_path: Path, line: bytes, code: str | None) -> None:
    ((_, _, found),) = lines_of(tmp_path / "lines", line + b"\n", 1 << 20)
    assert found == code


def test_a_database_has_one_process_and_one_version(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"

    async def run() -> None:
        database = Database(path)
        with pytest.raises(InvalidRequestError, match="another server"):
            Database(path)
        with pytest.raises(ZeroDivisionError):
            await database.run(_insert_and_fail)
        assert await database.run(_count) == 0
        await database.close()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version=9")
        with pytest.raises(InvalidRequestError, match="version 9"):
            Database(path)
        path.write_bytes(b"no database" * 100)
        with pytest.raises(InvalidRequestError, match="cannot be opened"):
            Database(path)

    asyncio.run(run())


def _insert_and_fail(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO lines (batch, number, begin, n_bytes) VALUES (1, 1, 0, 0)")
    raise ZeroDivisionError


def _count(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT COUNT(*) FROM lines").fetchone()[0]
    return count


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

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body["prompt"])
        await asyncio.wait_for(self.open.wait(), 20)
        if self.hangs:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return JSONResponse({"error": {"code": "cancelled"}}, 503)
        if self.n_busy > 0:
            self.n_busy -= 1
            error = {"error": {"message": "busy", "code": "queue_full"}}
            return JSONResponse(error, 429, {"retry-after": "0.01"})
        if body["prompt"] == IDS[3]:
            raise ValueError("a bug")
        return JSONResponse({"text": body["prompt"], "priority": body["priority"]})


class Lines(Running):
    """Counts what has begun: what runs, and what waits for a place."""

    n_begun = 0

    def begin_line(self, key: ApiKey) -> bool:
        begun = super().begin_line(key)
        self.n_begun += begun
        return begun


@contextlib.asynccontextmanager
async def batches_in(
    folder: Path, routes: Routes, running: Running | None = None
) -> AsyncIterator[Batches]:
    async with open_batches(
        folder,
        InProcess(routes.app, Spans()),
        KeyRing(),
        running or Running(),
        n_lines=2,
        max_line_bytes=1000,
        draining=lambda: False,
    ) as batches:
        yield batches


async def begin(batches: Batches, window_s: int = 3600) -> Batch:
    lines = [*map(line_of, IDS), line_of(IDS[0])]
    data = "\n".join(map(json.dumps, lines)).encode()
    with batches.files.draft() as draft:
        draft.write(data)
        draft.keep()
    file = StoredFile(draft.id, "", "x", "batch", len(data), 0)
    await batches.files.add(file)
    batch = await batches.store.add("", COMPLETIONS, file, ("1h", window_s), {})
    batches.runner.start(batch)
    return batch


async def end(batches: Batches, batch: Batch) -> Batch:
    deadline = time.monotonic() + 20
    while (found := await batches.store.get(batch.id)).status in UNFINISHED:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.002)
    return found


async def require_whole(batches: Batches, batch: Batch, folder: Path) -> None:
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


async def test_a_refusal_that_passes_is_not_a_lines_end(tmp_path: Path) -> None:
    routes = Routes()
    routes.n_busy = 3
    async with batches_in(tmp_path, routes) as batches:
        await require_whole(batches, await end(batches, await begin(batches)), tmp_path)
    assert len(routes.asked) == 5 + 3


@pytest.mark.parametrize("ending", ["expired", "cancelled"])
async def test_lines_that_run_when_a_batch_ends_are_cancelled(tmp_path: Path, ending: str) -> None:
    routes = Routes()
    routes.hangs = True
    async with batches_in(tmp_path, routes) as batches:
        batch = await begin(batches, window_s=1 if ending == "expired" else 3600)
        while len(routes.asked) < 2:
            await asyncio.sleep(0.002)
        if ending == "cancelled":
            await batches.store.move(batch, ["in_progress"], "cancelling")
            batches.runner.halt(batch)
        batch = await end(batches, batch)
        assert (batch.status, batch.n_completed) == (ending, 0)
        assert batch.n_failed == (6 if ending == "expired" else 1)
        assert len(routes.asked) == 2


async def test_a_batch_whose_step_fails_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_failed = 0
    record = BatchStore.record

    async def failing(store: BatchStore, batch: Batch, ended: list[Ended]) -> None:
        nonlocal n_failed
        if n_failed == 0 and ended[0].number == 2:
            n_failed += 1
            raise sqlite3.OperationalError("disk full")
        await record(store, batch, ended)

    monkeypatch.setattr(BatchStore, "record", failing)
    async with batches_in(tmp_path, Routes()) as batches:
        await require_whole(batches, await end(batches, await begin(batches)), tmp_path)
    assert n_failed == 1


async def test_a_server_that_stops_waits_for_no_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def failing(store: BatchStore, batch: Batch) -> None:
        failed.set()
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(BatchStore, "clear_lines", failing)
    monkeypatch.setattr(batch_runner, "_FIRST_PAUSE_S", 60)
    async with batches_in(tmp_path, Routes()) as batches:
        await begin(batches)
        await failed.wait()
        begun = time.monotonic()
    assert time.monotonic() - begun < 10


async def test_batches_get_places_in_turn(tmp_path: Path) -> None:
    routes, lines = Routes(), Lines()
    routes.open.clear()
    async with batches_in(tmp_path, routes, lines) as batches:
        made = [await begin(batches) for _ in range(3)]
        while lines.n_begun < 5:  # two have the places, and one of each batch waits
            await asyncio.sleep(0.002)
        routes.open.set()
        for batch in made:
            assert (await end(batches, batch)).n_completed == 4
    # The first five places, of which the last is asked for beside the sixth.
    assert routes.asked[:6].count(IDS[0]) == 3


class Killed(BaseException):
    """Stands for the process's end."""


class Killer:
    """Ends everything at the n-th transaction, before it or behind it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_left: int | None = None
        self.behind = False
        self._run = Database.run
        killer = self

        async def run(database: Database, work: Callable[[sqlite3.Connection], T]) -> T:
            return await killer.run(database, work)

        monkeypatch.setattr(Database, "run", run)

    async def run(self, database: Database, work: Callable[[sqlite3.Connection], T]) -> T:
        if self.n_left is None:
            return await self._run(database, work)
        self.n_left -= 1
        if self.n_left == 0 and self.behind:
            await self._run(database, work)
        if self.n_left <= 0:
            raise Killed
        return await self._run(database, work)


@pytest.mark.parametrize("behind", [False, True])
async def test_whatever_the_moment_of_death_each_line_comes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    killer = Killer(monkeypatch)
    n_killed = 0
    for n in range(1, 100):
        folder, routes = tmp_path / str(n), Routes()
        async with batches_in(folder, routes) as batches:
            batch = await begin(batches)
            killer.n_left, killer.behind = n, behind
            run = batches.runner._runs[batch.id]
            assert run.task
            (ended,) = await asyncio.gather(run.task, return_exceptions=True)
            killer.n_left = None
        n_killed += isinstance(ended, Killed)
        async with batches_in(folder, routes) as batches:
            await require_whole(batches, await end(batches, batch), folder)
        assert len(routes.asked) <= 5 + 2  # what ran when it died ran again, and nothing else
        if ended is None:
            break
    assert n_killed == n - 1 >= 14


async def test_a_result_counts_once(tmp_path: Path) -> None:
    routes = Routes()
    routes.open.clear()
    async with batches_in(tmp_path, routes) as batches:
        batch = await begin(batches)
        while len(routes.asked) < 2:
            await asyncio.sleep(0.002)
        for text in ("first", "again"):
            await batches.store.record(batch, [Ended(1, True, text)])
            assert (await batches.store.get(batch.id)).n_completed == 1
        routes.open.set()
        batch = await end(batches, batch)
        assert (batch.n_completed, batch.n_failed) == (4, 2)
        assert batch.output_file_id
        path = batches.files.path(await batches.files.find(batch.output_file_id, ""))
        assert path.read_text().splitlines()[0] == "first"


@pytest.fixture
def http(tmp_path: Path) -> Callable[..., httpx.Response]:
    """Posts to /v1/files of a server that takes 1000 bytes."""
    app = FastAPI()
    install_handlers(app)
    app.include_router(router)
    pool: Any = None
    app.state.context = Context(ServerSettings(max_file_mib=1000 / (1 << 20)), pool, pool)

    @app.middleware("http")
    async def let_in(request: Request, call_next: Any) -> Any:
        request.state.key = ANYONE
        return await call_next(request)

    async def post(**options: Any) -> httpx.Response:
        async with batches_in(tmp_path, Routes()) as app.state.batches:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.post("/v1/files", **options)

    return lambda **options: asyncio.run(post(**options))


def test_uploads_that_are_taken(http: Callable[..., httpx.Response], tmp_path: Path) -> None:
    answer = http(files={"file": ("../../etc/passwd", b"x" * 1000)}, data={"purpose": "batch"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["filename"], answer.json()["bytes"]) == ("../../etc/passwd", 1000)
    (path,) = (tmp_path / "files").iterdir()
    assert path.name == answer.json()["id"]
    assert path.read_bytes() == b"x" * 1000


BATCH = {"purpose": "batch"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\nbatch\r\n'


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        ({"files": {"file": b"x" * 1001}, "data": BATCH}, 413, "1000 bytes"),
        ({"files": {"file": b"x"}, "data": {"purpose": "vision"}}, 400, "purpose"),
        ({"files": {"file": b"x"}}, 400, "purpose"),
        ({"files": {"other": b"x"}, "data": BATCH}, 400, "other is not supported"),
        ({"files": {"file": b"x"}, "data": {**BATCH, "expires": "1"}}, 400, "expires is not"),
        ({"files": {"file": b"x"}, "data": {"purpose": "x" * 70_000}}, 413, "fields may have"),
        ({"files": [("file", b"x"), ("file", b"y")], "data": BATCH}, 400, "one file"),
        ({"files": [(f"f{i}", b"x") for i in range(20)]}, 400, "16 fields"),
        ({"data": BATCH}, 400, "multipart"),
        ({"json": {}}, 400, "multipart"),
        ({"content": b"", "headers": FORM}, 400, "no end"),
        ({"content": PART % b"purpose" + b"--b--\r\n", "headers": FORM}, 400, "file is missing"),
        ({"content": PART % b"file", "headers": FORM}, 400, "no end"),
        ({"content": b"nonsense", "headers": FORM}, 400, "cannot be read"),
    ],
)
def test_uploads_that_are_refused(
    http: Callable[..., httpx.Response],
    tmp_path: Path,
    options: dict[str, Any],
    status: int,
    expected: str,
) -> None:
    answer = http(**options)
    assert answer.status_code == status, answer.text
    assert expected in answer.json()["error"]["message"]
    assert not list((tmp_path / "files").iterdir())


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    left = [folder / f"file-{'0' * 32}", folder / f"file-{'1' * 32}.part"]
    theirs = folder / "notes.txt"
    for path in (*left, theirs):
        path.write_text("x")

    async def run() -> None:
        async with batches_in(tmp_path, Routes()):
            pass

    asyncio.run(run())
    assert list(folder.iterdir()) == [theirs]


def test_lines_at_once_leave_room_in_a_bounded_queue() -> None:
    assert lines_at_once([EngineConfig()]) == 16
    assert lines_at_once([EngineConfig(max_seqs=3), EngineConfig(max_seqs=2)]) == 6
    assert lines_at_once([EngineConfig(max_seqs=4, max_queued=4)]) == 6
    assert lines_at_once([EngineConfig(max_seqs=4, max_queued=1)]) == 4
