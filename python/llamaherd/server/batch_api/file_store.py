"""Store of uploaded files and output files of batches."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

from llamaherd.server.batch_api.database import IS_UNFINISHED, Database
from llamaherd.server.batch_api.file_quota import FileQuota
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits

# Too many open files or too little memory: the file may still exist.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
_logger = logging.getLogger("llamaherd.server")
_OURS = re.compile(r"file-[0-9a-f]{32}(\.part)?")


@dataclass(frozen=True)
class StoredFile:
    """Metadata of a file. `name` is set by the client and never used as a path."""

    id: str
    tenant: str
    name: str
    purpose: str
    n_bytes: int
    created_at: int
    expires_at: int


_COLUMNS = ", ".join(column.name for column in fields(StoredFile))


@dataclass
class Draft:
    """A file being written; deleted at the end of its `with` unless it is `stored`.

    Attributes:
      is_bounded: Whether the quota may reject it; it is counted in any case.
      stored: Whether the database has it.
    """

    folder: Path
    tenant: str
    quota: FileQuota
    is_bounded: bool
    id: str = field(default_factory=lambda: f"file-{uuid.uuid4().hex}")
    n_bytes: int = 0
    n_lines: int = 0
    stored: bool = False
    _is_kept: bool = False

    def __enter__(self) -> Draft:
        self._path = self.folder / f"{self.id}.part"
        self._count(n_files=1)
        try:
            self._file = open(self._path, "xb")
        except BaseException:
            self.quota.add(self.tenant, -1, 0)
            raise
        return self

    def write(self, data: bytes) -> None:
        """Append data. Raises ApiError if the tenant's quota is exceeded."""
        self._count(n_bytes=len(data))
        self.n_bytes += len(data)
        self.n_lines += data.count(b"\n")
        self._file.write(data)

    def _count(self, *, n_files: int = 0, n_bytes: int = 0) -> None:
        if self.is_bounded:
            self.quota.require(self.tenant, n_files=n_files, n_bytes=n_bytes)
        else:
            self.quota.add(self.tenant, n_files, n_bytes)

    def keep(self) -> None:
        """Sync the file to disk and give it its final name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.rename(self.folder / self.id)
        self._is_kept = True
        if os.name == "posix":
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError):  # the disk is full
            self._file.close()
        if self.stored:
            return
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        if is_interrupted and self._is_kept:
            return  # the database may have it
        for path in (self._path, self.folder / self.id):
            path.unlink(missing_ok=True)
        self.quota.add(self.tenant, -1, -self.n_bytes)


def insert_file(connection: sqlite3.Connection, file: StoredFile) -> None:
    connection.execute(
        f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(file)
    )


class FileStore:
    """The files of a folder. A file exists if the database has it; other files in the folder are
    left over from killed processes."""

    def __init__(self, database: Database, folder: Path, limits: Limits) -> None:
        self._database = database
        self._folder = folder
        self._quota = FileQuota(limits)
        self.longest_s = int(limits.file_expiry_h * 3600)

    def draft(self, tenant: str, *, is_bounded: bool = True) -> Draft:
        return Draft(self._folder, tenant, self._quota, is_bounded)

    def describe(
        self, draft: Draft, name: str, purpose: str, expires_after_s: int | None = None
    ) -> StoredFile:
        """Metadata of a complete draft.

        Args:
          draft: A draft after `keep`.
          name: Name given by the client.
          purpose: "batch" or "batch_output".
          expires_after_s: Seconds until it expires; None: `longest_s`.
        """
        now = int(time.time())
        expires_at = now + (expires_after_s or self.longest_s)
        return StoredFile(draft.id, draft.tenant, name, purpose, draft.n_bytes, now, expires_at)

    def path(self, file: StoredFile) -> Path:
        return self._folder / file.id

    async def add(self, draft: Draft, file: StoredFile) -> None:
        """Add a kept draft to the database."""
        await self._database.run(lambda connection: insert_file(connection, file))
        draft.stored = True

    async def require_whole(self, file: StoredFile) -> None:
        """Raises ApiError if the file on disk is missing or has another size."""
        try:
            found = (await asyncio.to_thread(self.path(file).stat)).st_size
        except OSError as error:
            if error.errno in PASSING:
                raise
            found = 0
        if found != file.n_bytes:
            message = f"the content of file {file.id} is missing on the server: delete the file"
            raise ApiError(404, message, code="file_lost")

    async def find(self, file_id: str, tenant: str) -> StoredFile:
        """A tenant's file. Raises ApiError if it does not exist."""
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
        """A tenant's files, those after file `after`."""

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
        """Raises ApiError if the file does not exist, or an unfinished batch reads it."""

        def work(connection: sqlite3.Connection) -> StoredFile:
            file = _find(connection, file_id, tenant)
            reader = connection.execute(
                f"SELECT id FROM batches WHERE input_file_id = ? AND {IS_UNFINISHED}",
                [file_id],
            ).fetchone()
            if reader:
                raise ApiError(400, f"file is in use by batch {reader['id']}", code="in_use")
            connection.execute("DELETE FROM files WHERE id = ?", [file_id])
            return file

        await self._remove([await self._database.run(work)])

    async def recover(self) -> None:
        """Count stored files and remove leftovers of killed processes. Call once, before any work
        starts."""

        def work(connection: sqlite3.Connection) -> list[StoredFile]:
            # Files from schema version 1.
            connection.execute(
                "UPDATE files SET expires_at = ? WHERE expires_at IS NULL",
                [int(time.time()) + self.longest_s],
            )
            return [StoredFile(*row) for row in connection.execute(f"SELECT {_COLUMNS} FROM files")]

        files = await self._database.run(work)
        for file in files:
            self._quota.add(file.tenant, 1, file.n_bytes)
        known = {file.id for file in files}
        for path in self._folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in known:
                _unlink(path)

    async def remove_expired(self) -> int:
        """Remove expired files that no unfinished batch reads; returns their number."""

        def work(connection: sqlite3.Connection) -> list[StoredFile]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM files WHERE expires_at <= ? AND NOT EXISTS (SELECT 1"
                f" FROM batches WHERE input_file_id = files.id AND {IS_UNFINISHED})",
                [int(time.time())],
            )
            files = [StoredFile(*row) for row in rows]
            connection.executemany("DELETE FROM files WHERE id = ?", [[file.id] for file in files])
            return files

        files = await self._database.run(work)
        await self._remove(files)
        return len(files)

    async def _remove(self, files: Sequence[StoredFile]) -> None:
        def unlink() -> None:
            for file in files:
                _unlink(self.path(file))
                self._quota.add(file.tenant, -1, -file.n_bytes)

        await asyncio.to_thread(unlink)


def _unlink(path: Path) -> None:
    """Remove an unreferenced file; a failure is logged."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("cannot remove %s: %s", path.name, error.strerror)


def _find(connection: sqlite3.Connection, file_id: str, tenant: str) -> StoredFile:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND tenant = ?", [file_id, tenant]
    ).fetchone()
    if row is None:
        raise ApiError(404, f"file {file_id!r} does not exist", code="file_not_found")
    return StoredFile(*row)
