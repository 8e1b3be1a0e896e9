"""Files that clients upload, and those that batches write."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import uuid
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

from llamaherd.server.database import Database
from llamaherd.server.errors import ApiError

_OURS = re.compile(r"file-[0-9a-f]{32}(\.part)?")


@dataclass(frozen=True)
class StoredFile:
    """What is known of a file. Its name is what the client called it: never a path."""

    id: str
    tenant: str
    name: str
    purpose: str
    n_bytes: int
    created_at: int


_COLUMNS = ", ".join(column.name for column in fields(StoredFile))


@dataclass
class Draft:
    """A file that is being written; gone at the end of its `with` unless it was kept."""

    folder: Path
    id: str = field(default_factory=lambda: f"file-{uuid.uuid4().hex}")
    n_bytes: int = 0

    def __enter__(self) -> Draft:
        self._path = self.folder / f"{self.id}.part"
        self._file = open(self._path, "xb")
        return self

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.n_bytes += len(data)

    def keep(self) -> None:
        """When this returns the file is on disk under its own name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.rename(self.folder / self.id)
        if os.name == "posix":
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def insert_file(connection: sqlite3.Connection, file: StoredFile) -> None:
    connection.execute(f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", astuple(file))


class FileStore:
    """The files of a folder. One is there if the database says so: what else lies in the folder
    was left by a process that was killed."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def draft(self) -> Draft:
        return Draft(self._folder)

    def path(self, file: StoredFile) -> Path:
        return self._folder / file.id

    async def add(self, file: StoredFile) -> None:
        """Make a kept draft known."""
        await self._database.run(lambda connection: insert_file(connection, file))

    async def find(self, file_id: str, tenant: str) -> StoredFile:
        """Raises ApiError if the tenant has no such file."""
        return await self._database.run(lambda connection: _find(connection, file_id, tenant))

    async def page(
        self,
        tenant: str,
        *,
        purpose: str | None,
        after: str | None,
        limit: int,
        newest_first: bool,
    ) -> list[StoredFile]:
        """A tenant's files, from behind one on."""

        def work(connection: sqlite3.Connection) -> list[StoredFile]:
            terms, values = "tenant = ?", [tenant]
            if purpose is not None:
                terms, values = f"{terms} AND purpose = ?", [*values, purpose]
            if after is not None:
                _find(connection, after, tenant)
                sign = "<" if newest_first else ">"
                terms += f" AND number {sign} (SELECT number FROM files WHERE id = ?)"
                values.append(after)
            order = "DESC" if newest_first else "ASC"
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM files WHERE {terms} ORDER BY number {order} LIMIT ?",
                [*values, limit],
            )
            return [StoredFile(*row) for row in rows]

        return await self._database.run(work)

    async def delete(self, file_id: str, tenant: str) -> None:
        """Raises ApiError if the tenant has no such file, or a batch still reads it."""

        def work(connection: sqlite3.Connection) -> StoredFile:
            file = _find(connection, file_id, tenant)
            reader = connection.execute(
                "SELECT id FROM batches WHERE input_file_id = ? AND status IN"
                " ('validating', 'in_progress', 'cancelling', 'finalizing')",
                [file_id],
            ).fetchone()
            if reader:
                raise ApiError(400, f"batch {reader['id']} still reads the file", code="in_use")
            connection.execute("DELETE FROM files WHERE id = ?", [file_id])
            return file

        file = await self._database.run(work)
        await asyncio.to_thread(self.path(file).unlink, missing_ok=True)

    async def sweep(self) -> None:
        """Remove what a killed process has left."""

        def work(connection: sqlite3.Connection) -> set[str]:
            return {row["id"] for row in connection.execute("SELECT id FROM files")}

        known = await self._database.run(work)
        for path in self._folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in known:
                path.unlink()


def _find(connection: sqlite3.Connection, file_id: str, tenant: str) -> StoredFile:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND tenant = ?", [file_id, tenant]
    ).fetchone()
    if row is None:
        raise ApiError(404, f"there is no file {file_id!r}", code="file_not_found")
    return StoredFile(*row)
