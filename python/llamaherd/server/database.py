"""SQLite in a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from llamaherd._core import InvalidRequestError

T = TypeVar("T")
_VERSION = 1
# Exclusive: the lock that the first statement takes is kept until the process ends.
_PRAGMAS = (
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "journal_size_limit=67108864",
    "synchronous=FULL",
)
_SCHEMA = """
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
"""


class Database:
    """A file that one process has at a time.

    Args:
      path: Made if missing.

    Raises:
      InvalidRequestError: Another process has it, or it is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1, "llamaherd-database")
        try:
            self._connection = self._thread.submit(_open, path).result()
        except sqlite3.Error as error:
            self._thread.shutdown()
            raise InvalidRequestError(
                f"{path} cannot be opened ({error}): is another server using its folder?"
            ) from None
        except BaseException:
            self._thread.shutdown()
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run something as one transaction: when this returns it is on disk, and if it raises
        nothing of it was done."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=1, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(
                f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;"
            )
        elif version != _VERSION:
            raise InvalidRequestError(f"{path} is of version {version}; this is {_VERSION}")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection
