"""The server's database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_stand_in import COMPLETIONS, LINES, Routes, batches_in, end, require_whole
from llamaherd import InvalidRequestError
from llamaherd.server.batch_api.database import Database


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
        with pytest.raises(InvalidRequestError, match="cannot open"):
            Database(path)

    asyncio.run(run())


def _insert_and_fail(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO lines (batch, number, begin, n_bytes) VALUES (1, 1, 0, 0)")
    raise ZeroDivisionError


def _count(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT COUNT(*) FROM lines").fetchone()[0]
    return count


def test_calls_that_share_a_commit_fail_alone(tmp_path: Path) -> None:
    def insert(number: int) -> Callable[[sqlite3.Connection], int]:
        def work(connection: sqlite3.Connection) -> int:
            sql = "INSERT INTO lines (batch, number, begin, n_bytes) VALUES (1, ?, 0, 0)"
            connection.execute(sql, [number])
            if number % 5 == 4:
                raise ZeroDivisionError(number)
            return number

        return work

    async def run() -> None:
        database = Database(tmp_path / "x.sqlite")
        calls = [database.run(insert(n)) for n in range(50)]
        calls.append(database.run(insert(0)))  # is there already
        got = await asyncio.gather(*calls, return_exceptions=True)
        assert [n for n in got if isinstance(n, int)] == [n for n in range(50) if n % 5 != 4]
        assert [error.args[0] for error in got if isinstance(error, ZeroDivisionError)] == [
            *range(4, 50, 5)
        ]
        assert isinstance(got[50], sqlite3.IntegrityError)
        assert await database.run(_count) == 40
        await database.close()

    asyncio.run(run())


_VERSION_1 = """
CREATE TABLE files (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, name TEXT NOT NULL,
  purpose TEXT NOT NULL, n_bytes INTEGER NOT NULL, created_at INTEGER NOT NULL);
CREATE INDEX files_of_tenants ON files (tenant, number);
CREATE TABLE batches (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL, completion_window TEXT NOT NULL,
  metadata TEXT NOT NULL, status TEXT NOT NULL, created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, in_progress_at INTEGER, finalizing_at INTEGER,
  completed_at INTEGER, failed_at INTEGER, expired_at INTEGER, cancelling_at INTEGER,
  cancelled_at INTEGER, errors TEXT, output_file_id TEXT, error_file_id TEXT,
  n_total INTEGER NOT NULL DEFAULT 0, n_completed INTEGER NOT NULL DEFAULT 0,
  n_failed INTEGER NOT NULL DEFAULT 0, has_expired INTEGER NOT NULL DEFAULT 0);
CREATE INDEX batches_of_tenants ON batches (tenant, number);
CREATE TABLE lines (
  batch INTEGER NOT NULL, number INTEGER NOT NULL, begin INTEGER NOT NULL,
  n_bytes INTEGER NOT NULL, custom_id TEXT, ok INTEGER, result TEXT,
  PRIMARY KEY (batch, number));
CREATE UNIQUE INDEX lines_by_custom_id ON lines (batch, custom_id);
PRAGMA user_version=1;
"""


def test_a_folder_of_version_1_goes_on(tmp_path: Path) -> None:
    file_id, text = f"file-{'0' * 32}", "\n".join(map(json.dumps, LINES))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / file_id).write_text(text)
    with contextlib.closing(sqlite3.connect(tmp_path / "batches.sqlite")) as connection:
        connection.executescript(_VERSION_1)
        with connection:
            connection.execute(
                "INSERT INTO files VALUES (1, ?, '', 'x', 'batch', ?, 0)", [file_id, len(text)]
            )
            connection.execute(
                "INSERT INTO batches (id, tenant, endpoint, input_file_id, completion_window,"
                " metadata, status, created_at, expires_at, n_total, n_failed)"
                " VALUES ('b', '', ?, ?, '1h', '{}', 'in_progress', 0, ?, 6, 1)",
                [COMPLETIONS, file_id, int(time.time()) + 3600],
            )
            begin = 0
            for i, line in enumerate(text.splitlines(keepends=True)):
                custom_id = LINES[i]["custom_id"] if i < 5 else None
                ok, result = (None, None) if i < 5 else (0, _DUPLICATE)
                connection.execute(
                    "INSERT INTO lines VALUES (1, ?, ?, ?, ?, ?, ?)",
                    [i + 1, begin, len(line), custom_id, ok, result],
                )
                begin += len(line)

    async def run() -> None:
        async with batches_in(tmp_path, Routes()) as batches:
            batch = await end(batches, await batches.store.get("b"))
            await require_whole(batches, batch, tmp_path)

    asyncio.run(run())


_DUPLICATE = json.dumps({"custom_id": "id-0", "error": {"code": "duplicate_custom_id"}})
