"""Lines, input files and outputs that kill the process of a batch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from batch_stand_in import Routes, batches_in, begin, end, line_of
from llamaherd.server.batch_api import batch_runner

pytestmark = pytest.mark.slow

_HERE = Path(__file__).parent
_N_LINES = 40


def child(folder: str, killers: list[str], n_batches: int) -> None:
    """Take the batches of a folder to their ends, or die of a killer: a custom_id, `input` or
    `output`."""

    def kill(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    if "input" in killers:
        batch_runner.read_lines = kill
    if "output" in killers:
        batch_runner._write_results = kill
    asyncio.run(_run(Path(folder), frozenset(killers), n_batches))


async def _run(folder: Path, killers: frozenset[str], n_batches: int) -> None:
    routes = Routes()
    routes.killers = killers
    async with batches_in(folder, routes, n_lines=8) as batches:
        for i in range(n_batches - len(await batches.store.page("", after=None, limit=100))):
            lines = [line_of(f"{i}.{k}") for k in range(_N_LINES)]
            await begin(batches, lines=lines)
        for batch in await batches.store.unfinished():
            await end(batches, batch)


def starts(folder: Path, *killers: str, n_batches: int = 1) -> int:
    """How many processes it took."""
    code = f"import test_batch_crashes as t; t.child({str(folder)!r}, {killers}, {n_batches})"
    for n in range(1, 12):
        process = subprocess.run([sys.executable, "-c", code], cwd=_HERE, timeout=60)
        if process.returncode == 0:
            return n
        assert process.returncode == -signal.SIGKILL
    raise AssertionError("the batch does not end")


def state(folder: Path) -> tuple[list[sqlite3.Row], list[dict[str, Any]]]:
    """The batches of a folder, and the lines of their error files."""
    with contextlib.closing(sqlite3.connect(folder / "batches.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        batches = connection.execute("SELECT * FROM batches ORDER BY number").fetchall()
        assert connection.execute("SELECT COUNT(*) FROM lines").fetchone()[0] == 0
    errors = []
    for batch in batches:
        if batch["error_file_id"]:
            text = (folder / "files" / batch["error_file_id"]).read_text()
            errors += [json.loads(line) for line in text.splitlines()]
    return batches, errors


@pytest.mark.parametrize("killers", [("0.0",), ("0.21",), ("0.2", "0.3", "0.39")])
def test_only_lines_that_kill_fail(tmp_path: Path, killers: tuple[str, ...]) -> None:
    n_starts = starts(tmp_path, *killers)
    # All that run together die of one first: then each dies alone.
    assert n_starts <= 2 * len(killers) + 1
    ((batch,), errors) = state(tmp_path)
    assert batch["status"] == "completed"
    assert (batch["n_completed"], batch["n_failed"]) == (_N_LINES - len(killers), len(killers))
    assert {(x["custom_id"], x["error"]["code"]) for x in errors} == {
        (killer, "process_died") for killer in killers
    }


def test_a_line_that_kills_does_not_harm_other_batches(tmp_path: Path) -> None:
    assert starts(tmp_path, "0.5", "2.7", n_batches=3) <= 5
    batches, errors = state(tmp_path)
    assert Counter(batch["status"] for batch in batches) == {"completed": 3}
    assert sum(batch["n_completed"] for batch in batches) == 3 * _N_LINES - 2
    assert {x["custom_id"] for x in errors} == {"0.5", "2.7"}


@pytest.mark.parametrize("step", ["input", "output"])
def test_a_file_that_kills_fails_its_batch(tmp_path: Path, step: str) -> None:
    assert starts(tmp_path, step) == 3
    (batch,), _ = state(tmp_path)
    assert batch["status"] == "failed"
    assert [error["code"] for error in json.loads(batch["errors"])] == ["process_died"]
    assert starts(tmp_path, n_batches=2) == 1
    _, batch = state(tmp_path)[0]
    assert (batch["status"], batch["n_completed"]) == ("completed", _N_LINES)


def test_a_process_that_stops_cleanly_accuses_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        routes = Routes()
        routes.hangs = True
        for n_stops in range(3):
            async with batches_in(tmp_path, routes) as batches:
                if n_stops == 0:
                    batch = await begin(batches)
                while len(routes.asked) < 2 * (n_stops + 1):
                    await asyncio.sleep(0.002)
        routes.hangs = False
        async with batches_in(tmp_path, routes) as batches:
            assert not await batches.store.suspects(batch)
            assert (await end(batches, batch)).n_completed == 4

    asyncio.run(run())


def test_what_was_under_way_at_a_crash_runs_alone(tmp_path: Path) -> None:
    async def run() -> None:
        routes = Routes()
        routes.hangs = True
        async with batches_in(tmp_path, routes) as batches:
            batch = await begin(batches, lines=[line_of(f"{i}") for i in range(40)])
            while len(routes.asked) < 2:
                await asyncio.sleep(0.002)
            await batches.store.recover()  # as after a crash
            suspects = {line.custom_id for line in await batches.store.suspects(batch)}
            assert {"0", "1"} < suspects
            assert len(suspects) < 40
        routes = Routes()
        routes.n_busy = 3
        async with batches_in(tmp_path, routes, n_lines=8) as batches:
            assert (await end(batches, batch)).n_completed == 40
        assert set(routes.asked[: len(suspects) + 3]) == suspects
        assert {routes.n_beside[custom_id] for custom_id in suspects} == {0}
        assert max(routes.n_beside.values()) >= 4

    asyncio.run(run())
