"""The server's database."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from llamaherd import InvalidRequestError
from llamaherd.server.database import Database


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
