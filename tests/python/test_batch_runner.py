"""What runs the lines of batches, without a model."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from batch_stand_in import (
    COMPLETIONS,
    IDS,
    Routes,
    batches_in,
    begin,
    end,
    keep,
    line_of,
    require_whole,
)
from llamaherd import EngineConfig
from llamaherd.server.access.api_keys import ApiKey
from llamaherd.server.access.running_counts import RunningCounts
from llamaherd.server.batch_api import batch_runner
from llamaherd.server.batch_api.batch_input import InputLine
from llamaherd.server.batch_api.batch_service import BatchService, lines_at_once
from llamaherd.server.batch_api.batch_store import Batch, BatchStore, Ended
from llamaherd.server.batch_api.database import Database
from llamaherd.server.common.limits import Limits

T = TypeVar("T")


class Lines(RunningCounts):
    """Counts what has begun: what runs, and what waits for a place."""

    n_begun = 0

    def begin_line(self, key: ApiKey) -> bool:
        begun = super().begin_line(key)
        self.n_begun += begun
        return begun


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


async def files_of(batches: BatchService, batch: Batch) -> list[list[dict[str, Any]]]:
    """The lines of a batch's output file and of its error file."""
    found = []
    for file_id in (batch.output_file_id, batch.error_file_id):
        assert file_id
        path = batches.files.path(await batches.files.find(file_id, ""))
        found.append([json.loads(line) for line in path.read_text().splitlines()])
    return found


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("delete", "input_file_lost"),
        ("folder", "input_file_lost"),
        ("rewrite", "input_file_changed"),
        ("cut", "input_file_changed"),
    ],
)
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_batch_that_loses_its_input_fails_with_what_is_done(
    tmp_path: Path, change: str, code: str, restarts: bool
) -> None:
    routes = Routes()
    routes.hangs = restarts
    async with batches_in(tmp_path, routes) as batches:
        if not restarts:
            routes.open.clear()
        batch = await begin(batches)
        while len(routes.asked) < 2:
            await asyncio.sleep(0.002)
        path = tmp_path / "files" / batch.input_file_id
        data = path.read_bytes()
        path.unlink()
        if change == "folder":
            path.mkdir()
        elif change == "rewrite":
            path.write_bytes(data.replace(b"id", b"di"))
        elif change == "cut":
            path.write_bytes(data[: len(data) // 4])
        routes.open.set()
        if not restarts:
            batch = await end(batches, batch)
    routes.hangs = False
    async with batches_in(tmp_path, routes) as batches:
        batch = await end(batches, await batches.store.get(batch.id))
        assert (batch.status, batch.n_total) == ("failed", 6)
        assert [error["code"] for error in json.loads(batch.errors or "")] == [code]
        assert batch.failed_at
        if restarts:  # nothing was done
            assert (batch.n_completed, batch.n_failed, batch.output_file_id) == (0, 6, None)
            return
        output, errors = await files_of(batches, batch)
        assert [line["custom_id"] for line in output] == IDS[:2]
        assert [line["custom_id"] for line in errors] == [*IDS[2:], IDS[0]]
        assert [line["error"]["code"] for line in errors] == [*[code] * 3, "duplicate_custom_id"]


@pytest.mark.parametrize("change", ["delete", "cut", "forget"])
async def test_an_input_that_is_lost_before_it_is_read_fails_its_batch(
    tmp_path: Path, change: str
) -> None:
    async with batches_in(tmp_path, Routes()) as batches:
        file = await keep(batches, b"{}")
        batch = await batches.store.add("", COMPLETIONS, file, ("1h", 3600), {})
        if change == "delete":
            batches.files.path(file).unlink()
        elif change == "cut":
            batches.files.path(file).write_bytes(b"")
        else:
            await batches.store._database.run(lambda c: c.execute("DELETE FROM files") and None)
        batches.runner.start(batch)
        batch = await end(batches, batch)
        assert batch.status == "failed"
        (error,) = json.loads(batch.errors or "")
        assert error["code"] == ("input_file_changed" if change == "cut" else "input_file_lost")


async def test_a_loss_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runner, "_FIRST_PAUSE_S", 0.01)
    record, n_failed = BatchStore.record, 0

    async def failing(store: BatchStore, batch: Batch, ended: list[Ended]) -> None:
        nonlocal n_failed
        if n_failed < 2:
            n_failed += 1
            raise sqlite3.OperationalError("disk I/O error")
        await record(store, batch, ended)

    monkeypatch.setattr(BatchStore, "record", failing)
    async with batches_in(tmp_path, Routes()) as batches:
        batch = await begin(batches)
        while not n_failed:
            await asyncio.sleep(0.001)
        (tmp_path / "files" / batch.input_file_id).unlink()
        batch = await end(batches, batch)
        assert batch.status == "failed"
        assert batch.n_completed + batch.n_failed == 6


async def test_an_answer_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    async with batches_in(tmp_path, Routes()) as batches:
        batch = await begin(batches, lines=[line_of(name) for name in ("a", "half", "b")])
        batch = await end(batches, batch)
        assert (batch.status, batch.n_completed, batch.n_failed) == ("completed", 2, 1)
        _, (error,) = await files_of(batches, batch)
        assert (error["custom_id"], error["response"]["status_code"]) == ("half", 500)
        assert error["response"]["body"]["error"]["message"] == "internal server error"


async def test_lines_that_are_all_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of as many as a file may hold; the event loop goes on between pages of them."""
    limits = Limits(max_batch_lines=5000)
    n_turns, pages = 0, []  # turns of the event loop before each page, and its lines
    add_lines = BatchStore.add_lines

    async def watch() -> None:
        nonlocal n_turns
        while True:
            n_turns += 1
            await asyncio.sleep(0)

    async def noted(store: BatchStore, batch: Batch, lines: Sequence[InputLine]) -> None:
        pages.append((n_turns, len(lines)))
        await add_lines(store, batch, lines)

    monkeypatch.setattr(BatchStore, "add_lines", noted)
    async with batches_in(tmp_path, Routes(), limits=limits) as batches:
        file = await keep(batches, b'{"custom_id": "x", "y": 1}\n' * 5000)
        batch = await batches.store.add("", COMPLETIONS, file, ("1h", 3600), {})
        watching = asyncio.ensure_future(watch())
        batches.runner.start(batch)
        batch = await end(batches, batch)
        watching.cancel()
        assert (batch.status, batch.n_failed) == ("completed", 5000)
        path = tmp_path / "files" / str(batch.error_file_id)
        assert len(path.read_text().splitlines()) == 5000
        assert path.stat().st_size < 400 * 5000
        assert [n for _, n in pages] == [batch_runner._PAGE] * (5000 // batch_runner._PAGE)
        assert all(before < after for (before, _), (after, _) in pairwise(pages))
        file = await keep(batches, b"{}\n" * 5001)
        batch = await batches.store.add("", COMPLETIONS, file, ("1h", 3600), {})
        batches.runner.start(batch)
        batch = await end(batches, batch)
        assert (batch.status, batch.n_total, batch.error_file_id) == ("failed", 0, None)
        (error,) = json.loads(batch.errors or "")
        assert error["code"] == "too_many_lines"


async def test_a_server_that_stops_waits_for_no_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def failing(store: BatchStore, batch: Batch) -> None:
        failed.set()
        raise sqlite3.OperationalError("disk full")

    async def run() -> None:
        async with batches_in(tmp_path, Routes()) as batches:
            await begin(batches)
            await failed.wait()

    monkeypatch.setattr(BatchStore, "clear_lines", failing)
    monkeypatch.setattr(batch_runner, "_FIRST_PAUSE_S", 3600)
    await asyncio.wait_for(run(), 120)


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


def test_lines_at_once_leave_room_in_a_bounded_queue() -> None:
    assert lines_at_once([EngineConfig()]) == 16
    assert lines_at_once([EngineConfig(max_seqs=3), EngineConfig(max_seqs=2)]) == 6
    assert lines_at_once([EngineConfig(max_seqs=4, max_queued=4)]) == 6
    assert lines_at_once([EngineConfig(max_seqs=4, max_queued=1)]) == 4
