"""Batches and their lines in the database."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from llamaherd.server.batch_api.batch_input import InputLine, LineError
from llamaherd.server.batch_api.batch_output import failed_line
from llamaherd.server.batch_api.database import IS_UNFINISHED, Database
from llamaherd.server.batch_api.file_store import StoredFile, insert_file
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits

MOST_CRASHES = 2
CRASHED = LineError(
    "process_died",
    f"the server's process crashed {MOST_CRASHES} times while this was running, the last time"
    " exclusively; it is not retried",
)
_LINE = "number, begin, n_bytes, custom_id, crc, n_crashes"
_logger = logging.getLogger("llamaherd.server")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """State of a batch. Times in seconds since 1970; None: not reached."""

    number: int
    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: str
    status: str
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    errors: str | None
    output_file_id: str | None
    error_file_id: str | None
    n_total: int
    n_completed: int
    n_failed: int
    has_expired: int
    begun: int
    n_crashes: int
    output_expires_s: int | None

    @property
    def n_left(self) -> int:
        return self.n_total - self.n_completed - self.n_failed


_COLUMNS = ", ".join(column.name for column in fields(Batch))


@dataclass(frozen=True)
class Ended:
    """Result of a finished line, and its output text."""

    number: int
    ok: bool
    result: str


class BatchStore:
    """Table of batches and lines. Each change is one transaction, on disk when the call returns."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    async def add(
        self,
        tenant: str,
        endpoint: str,
        file: StoredFile,
        window: tuple[str, int],
        metadata: dict[str, str],
        output_expires_s: int | None = None,
    ) -> Batch:
        """Add a batch; its window is given as requested and in seconds.

        Raises:
          ApiError: The file does not exist, or the tenant has max_batches unfinished batches.
        """
        id_, now = f"batch_{uuid.uuid4().hex}", int(time.time())
        values: dict[str, Any] = {
            "id": id_,
            "tenant": tenant,
            "endpoint": endpoint,
            "input_file_id": file.id,
            "completion_window": window[0],
            "metadata": json.dumps(metadata),
            "status": "validating",
            "created_at": now,
            "expires_at": now + window[1],
            "output_expires_s": output_expires_s,
        }

        def work(connection: sqlite3.Connection) -> Batch:
            if not connection.execute("SELECT 1 FROM files WHERE id = ?", [file.id]).fetchone():
                raise ApiError(404, f"file {file.id!r} does not exist", code="file_not_found")
            self._make_room(connection, tenant)
            marks = ", ".join("?" * len(values))
            connection.execute(
                f"INSERT INTO batches ({', '.join(values)}) VALUES ({marks})", [*values.values()]
            )
            return _get(connection, id_)

        return await self._database.run(work)

    def _make_room(self, connection: sqlite3.Connection, tenant: str) -> None:
        (n_open,) = connection.execute(
            f"SELECT COUNT(*) FROM batches WHERE tenant = ? AND {IS_UNFINISHED}", [tenant]
        ).fetchone()
        what = "unfinished batches of a client must be"
        self._limits.require("max_batches", n_open + 1, what=what)
        connection.execute(
            f"DELETE FROM batches WHERE tenant = ? AND NOT {IS_UNFINISHED} AND number <="
            " (SELECT number FROM batches WHERE tenant = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
            [tenant, tenant, self._limits.max_batch_records - 1],
        )

    async def get(self, batch_id: str) -> Batch:
        return await self._database.run(lambda connection: _get(connection, batch_id))

    async def find(self, batch_id: str, tenant: str) -> Batch:
        """Raises ApiError if the tenant has no such batch."""
        return await self._database.run(lambda connection: _find(connection, batch_id, tenant))

    async def page(self, tenant: str, *, after: str | None, limit: int) -> list[Batch]:
        """A tenant's batches, newest first, those after batch `after`."""

        def work(connection: sqlite3.Connection) -> list[Batch]:
            before = 1 << 62 if after is None else _find(connection, after, tenant).number
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM batches WHERE tenant = ? AND number < ?"
                " ORDER BY number DESC LIMIT ?",
                [tenant, before, limit],
            )
            return [Batch(**row) for row in rows]

        return await self._database.run(work)

    async def unfinished(self) -> list[Batch]:
        def work(connection: sqlite3.Connection) -> list[Batch]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM batches WHERE {IS_UNFINISHED} ORDER BY number"
            )
            return [Batch(**row) for row in rows]

        return await self._database.run(work)

    async def recover(self) -> None:
        """Count a crash for work that was running when the last process ended; fail lines with
        MOST_CRASHES. Call once, before any work starts."""

        def work(connection: sqlite3.Connection) -> None:
            for table, term in (("lines", "AND ok IS NULL"), ("batches", "")):
                connection.execute(
                    f"UPDATE {table} SET begun = 0, n_crashes = n_crashes + 1"
                    f" WHERE begun = 1 {term}"
                )
            rows = connection.execute(
                "SELECT batch, lines.number, custom_id, id FROM lines JOIN batches"
                " ON batch = batches.number WHERE ok IS NULL AND lines.n_crashes >= ?",
                [MOST_CRASHES],
            ).fetchall()
            for batch, line, custom_id, batch_id in rows:
                result = failed_line(custom_id, CRASHED.code, CRASHED.message)
                _record(connection, batch, [Ended(line, False, result)])
                extra = {"batch": batch_id, "line": line}
                _logger.warning(
                    "a line failed: the process crashed twice while it was running", extra=extra
                )

        await self._database.run(work)

    async def end_cleanly(self) -> None:
        """Mark all work as not running."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE lines SET begun = 0 WHERE begun = 1 AND ok IS NULL")
            connection.execute("UPDATE batches SET begun = 0 WHERE begun = 1")

        await self._database.run(work)

    async def mark(self, batch: Batch, *, begun: bool) -> None:
        """Mark a step of the batch other than its lines as running or not."""
        await self._database.run(lambda connection: _set(connection, batch, begun=begun))

    async def mark_line(self, batch: Batch, line: InputLine, *, begun: bool) -> None:
        """Mark a line as running or not."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE lines SET begun = ? WHERE batch = ? AND number = ?",
                [begun, batch.number, line.number],
            )

        await self._database.run(work)

    async def move(self, batch: Batch, sources: Sequence[str], status: str) -> Batch:
        """Set a new status if the current one is in `sources`; returns the batch."""

        def work(connection: sqlite3.Connection) -> Batch:
            if _get(connection, batch.id).status in sources:
                _set(connection, batch, status=status, **{f"{status}_at": int(time.time())})
                _set(connection, batch, begun=0, n_crashes=0)
            return _get(connection, batch.id)

        return await self._database.run(work)

    async def lose_input(self, batch: Batch, error: LineError) -> None:
        """Record that the input file is unusable."""
        errors = _errors([(None, error)])
        await self._database.run(lambda connection: _set(connection, batch, errors=errors))

    async def expire(self, batch: Batch) -> None:
        """Record persistently that the completion window has ended."""
        await self._database.run(lambda connection: _set(connection, batch, has_expired=1))

    async def clear_lines(self, batch: Batch) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM lines WHERE batch = ?", [batch.number])
            _set(connection, batch, n_total=0, n_completed=0, n_failed=0)

        await self._database.run(work)

    async def add_lines(self, batch: Batch, lines: Sequence[InputLine]) -> None:
        """Add lines; invalid ones are recorded as failed."""

        def work(connection: sqlite3.Connection) -> None:
            n_failed = sum(not _insert_line(connection, batch, line) for line in lines)
            connection.execute(
                "UPDATE batches SET n_total = n_total + ?, n_failed = n_failed + ?"
                " WHERE number = ?",
                [len(lines), n_failed, batch.number],
            )

        await self._database.run(work)

    async def pending(self, batch: Batch, after: int, limit: int) -> list[InputLine]:
        """Unfinished lines after line `after`."""

        def work(connection: sqlite3.Connection) -> list[InputLine]:
            rows = connection.execute(
                f"SELECT {_LINE} FROM lines"
                " WHERE batch = ? AND number > ? AND ok IS NULL ORDER BY number LIMIT ?",
                [batch.number, after, limit],
            )
            return [InputLine(*row) for row in rows]

        return await self._database.run(work)

    async def take(self, batch: Batch, after: int, limit: int) -> list[InputLine]:
        """The next lines without a crash, marked as running."""

        def work(connection: sqlite3.Connection) -> list[InputLine]:
            rows = connection.execute(
                f"SELECT {_LINE} FROM lines WHERE batch = ? AND number > ? AND ok IS NULL"
                " AND n_crashes = 0 ORDER BY number LIMIT ?",
                [batch.number, after, limit],
            )
            lines = [InputLine(*row) for row in rows]
            if lines:
                connection.execute(
                    "UPDATE lines SET begun = 1 WHERE batch = ? AND number BETWEEN ? AND ?"
                    " AND ok IS NULL AND n_crashes = 0",
                    [batch.number, lines[0].number, lines[-1].number],
                )
            return lines

        return await self._database.run(work)

    async def suspects(self, batch: Batch) -> list[InputLine]:
        """Lines that were running when the process crashed."""

        def work(connection: sqlite3.Connection) -> list[InputLine]:
            rows = connection.execute(
                f"SELECT {_LINE} FROM lines WHERE batch = ? AND ok IS NULL AND n_crashes > 0"
                " ORDER BY number",
                [batch.number],
            )
            return [InputLine(*row) for row in rows]

        return await self._database.run(work)

    async def record(self, batch: Batch, ended: Sequence[Ended]) -> None:
        """Record results of lines; a line that has one keeps it."""
        await self._database.run(lambda connection: _record(connection, batch.number, ended))

    async def ended(self, batch: Batch, *, ok: bool, after: int, limit: int) -> list[Ended]:
        """Finished lines after line `after` with outcome `ok`."""

        def work(connection: sqlite3.Connection) -> list[Ended]:
            rows = connection.execute(
                "SELECT number, ok, result FROM lines"
                " WHERE batch = ? AND number > ? AND ok = ? ORDER BY number LIMIT ?",
                [batch.number, after, ok, limit],
            )
            return [Ended(*row) for row in rows]

        return await self._database.run(work)

    async def fail(self, batch: Batch, errors: Sequence[tuple[int | None, LineError]]) -> None:
        """Fail a batch whose input file is unusable."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM lines WHERE batch = ?", [batch.number])
            now = int(time.time())
            _set(connection, batch, status="failed", failed_at=now, errors=_errors(errors))
            _set(connection, batch, begun=0, n_crashes=0, n_total=0, n_completed=0, n_failed=0)

        await self._database.run(work)

    async def finish(
        self, batch: Batch, status: str, output: StoredFile | None, errors: StoredFile | None
    ) -> None:
        """Finish a batch: publish its files and delete its lines."""

        def work(connection: sqlite3.Connection) -> None:
            for name, file in (("output_file_id", output), ("error_file_id", errors)):
                if file is not None:
                    insert_file(connection, file)
                    _set(connection, batch, **{name: file.id})
            _set(connection, batch, status=status, **{f"{status}_at": int(time.time())})
            _set(connection, batch, begun=0, n_crashes=0)
            connection.execute("DELETE FROM lines WHERE batch = ?", [batch.number])

        await self._database.run(work)


def _get(connection: sqlite3.Connection, batch_id: str) -> Batch:
    row = connection.execute(f"SELECT {_COLUMNS} FROM batches WHERE id = ?", [batch_id]).fetchone()
    return Batch(**row)


def _find(connection: sqlite3.Connection, batch_id: str, tenant: str) -> Batch:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM batches WHERE id = ? AND tenant = ?", [batch_id, tenant]
    ).fetchone()
    if row is None:
        raise ApiError(404, f"batch {batch_id!r} does not exist", code="batch_not_found")
    return Batch(**row)


def _set(connection: sqlite3.Connection, batch: Batch, **values: Any) -> None:
    terms = ", ".join(f"{name} = ?" for name in values)
    connection.execute(
        f"UPDATE batches SET {terms} WHERE number = ?", [*values.values(), batch.number]
    )


def _errors(errors: Sequence[tuple[int | None, LineError]]) -> str:
    data = [
        {"code": e.code, "message": e.message, "line": line, "param": e.param} for line, e in errors
    ]
    return json.dumps(data)


def _record(connection: sqlite3.Connection, batch: int, ended: Sequence[Ended]) -> None:
    n = {True: 0, False: 0}
    for line in ended:
        n[line.ok] += connection.execute(
            "UPDATE lines SET ok = ?, result = ? WHERE batch = ? AND number = ? AND ok IS NULL",
            [line.ok, line.result, batch, line.number],
        ).rowcount
    connection.execute(
        "UPDATE batches SET n_completed = n_completed + ?, n_failed = n_failed + ?"
        " WHERE number = ?",
        [n[True], n[False], batch],
    )


def _insert_line(connection: sqlite3.Connection, batch: Batch, line: InputLine) -> bool:
    """Whether the line is valid and has to run."""
    place = [batch.number, line.number, line.begin, line.n_bytes]
    n_added = connection.execute(
        "INSERT INTO lines (batch, number, begin, n_bytes, custom_id, crc)"
        " VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (batch, custom_id) DO NOTHING",
        [*place, line.custom_id, line.crc],
    ).rowcount
    error = line.error
    if not n_added:
        connection.execute(
            "INSERT INTO lines (batch, number, begin, n_bytes) VALUES (?, ?, ?, ?)", place
        )
        error = LineError(
            "duplicate_custom_id", "custom_id must be unique; an earlier line has the same one"
        )
    if error is None:
        return True
    message = f"line {line.number}: {error.message}"
    connection.execute(
        "UPDATE lines SET ok = 0, result = ? WHERE batch = ? AND number = ?",
        [failed_line(line.custom_id, error.code, message), batch.number, line.number],
    )
    return False
