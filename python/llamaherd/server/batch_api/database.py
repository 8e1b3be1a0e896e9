"""SQLite on a dedicated thread."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from llamaherd._core import InvalidRequestError

T = TypeVar("T")
_VERSION = 2
# Statuses of batches, and a condition on a row of them.
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
IS_UNFINISHED = f"status IN ({', '.join(map(repr, UNFINISHED))})"

# Exclusive: the lock of the first statement is kept until the process ends.
_PRAGMAS = (
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "journal_size_limit=67108864",
    "synchronous=FULL",
)
_SCHEMA = """
CREATE TABLE files (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, name TEXT NOT NULL,
  purpose TEXT NOT NULL, n_bytes INTEGER NOT NULL, created_at INTEGER NOT NULL,
  expires_at INTEGER);
CREATE INDEX files_of_tenants ON files (tenant, number);
CREATE TABLE batches (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL, completion_window TEXT NOT NULL,
  metadata TEXT NOT NULL, status TEXT NOT NULL, created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, in_progress_at INTEGER, finalizing_at INTEGER,
  completed_at INTEGER, failed_at INTEGER, expired_at INTEGER, cancelling_at INTEGER,
  cancelled_at INTEGER, errors TEXT, output_file_id TEXT, error_file_id TEXT,
  n_total INTEGER NOT NULL DEFAULT 0, n_completed INTEGER NOT NULL DEFAULT 0,
  n_failed INTEGER NOT NULL DEFAULT 0, has_expired INTEGER NOT NULL DEFAULT 0,
  begun INTEGER NOT NULL DEFAULT 0, n_crashes INTEGER NOT NULL DEFAULT 0,
  output_expires_s INTEGER);
CREATE INDEX batches_of_tenants ON batches (tenant, number);
CREATE TABLE lines (
  batch INTEGER NOT NULL, number INTEGER NOT NULL, begin INTEGER NOT NULL,
  n_bytes INTEGER NOT NULL, custom_id TEXT, ok INTEGER, result TEXT, crc INTEGER,
  begun INTEGER NOT NULL DEFAULT 0, n_crashes INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (batch, number));
CREATE UNIQUE INDEX lines_by_custom_id ON lines (batch, custom_id);
CREATE INDEX lines_under_way ON lines (batch) WHERE begun = 1 AND ok IS NULL;
"""
# Migrations to the next schema version.
_MIGRATIONS = {
    1: """
ALTER TABLE files ADD COLUMN expires_at INTEGER;
ALTER TABLE batches ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN n_crashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN output_expires_s INTEGER;
ALTER TABLE lines ADD COLUMN crc INTEGER;
ALTER TABLE lines ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lines ADD COLUMN n_crashes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX lines_under_way ON lines (batch) WHERE begun = 1 AND ok IS NULL;
""",
}


@dataclass(eq=False)
class _Call(Generic[T]):
    work: Callable[[sqlite3.Connection], T]
    future: Future[T] = field(default_factory=Future)


class Database:
    """A database file used by one process at a time.

    Args:
      path: Created if missing.

    Raises:
      InvalidRequestError: Another process uses the file, or it is not a llamaherd database.
    """

    def __init__(self, path: Path) -> None:
        self._waiting: deque[_Call[Any]] = deque()
        self._thread = ThreadPoolExecutor(1, "llamaherd-database")
        try:
            self._connection = self._thread.submit(_open, path).result()
        except sqlite3.Error as error:
            self._thread.shutdown()
            raise InvalidRequestError(
                f"cannot open {path} ({error}): is another server using its folder?"
            ) from None
        except BaseException:
            self._thread.shutdown()
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` as a transaction: on disk when this returns, rolled back if it raises. Queued
        calls share a commit; if one fails the others run again, so `work` must not change anything
        but the database."""
        call: _Call[T] = _Call(work)
        self._waiting.append(call)
        self._thread.submit(self._run_waiting)
        return await asyncio.wrap_future(call.future)

    def _run_waiting(self) -> None:
        calls = []
        while self._waiting:
            call = self._waiting.popleft()
            if call.future.set_running_or_notify_cancel():
                calls.append(call)
        if not self._commit(calls):
            for call in calls:
                self._commit([call])

    def _commit(self, calls: list[_Call[Any]]) -> bool:
        """Whether the calls are finished. A single call always is, possibly with its exception."""
        if not calls:
            return True
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [call.work(connection) for call in calls]
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if len(calls) == 1:
                calls[0].future.set_exception(_named(error))
            return len(calls) == 1
        for call, result in zip(calls, results, strict=True):
            call.future.set_result(result)
        return True

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()


def _named(error: BaseException) -> BaseException:
    """Translate an SQLite error for the caller."""
    if isinstance(error, UnicodeEncodeError):
        return InvalidRequestError("a string must not contain lone surrogates")
    if isinstance(error, OverflowError):
        return InvalidRequestError("an integer must fit in 64 bits")
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return OSError(errno.ENOSPC, str(error))
    return error


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=1, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            _change(connection, _SCHEMA, _VERSION)
        while version in _MIGRATIONS:
            _change(connection, _MIGRATIONS[version], version + 1)
            version += 1
        if version not in (0, _VERSION):
            raise InvalidRequestError(
                f"{path} has schema version {version}; this llamaherd reads 1 to {_VERSION}:"
                " use a newer llamaherd or another folder"
            )
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _change(connection: sqlite3.Connection, script: str, version: int) -> None:
    """Run a script that creates a schema version, as one transaction."""
    connection.executescript(f"BEGIN EXCLUSIVE; {script} PRAGMA user_version={version}; COMMIT;")
