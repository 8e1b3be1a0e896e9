"""Files that clients upload, and those that batches write."""

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

# Errors of a process with too many open files or too little memory: the file may be there.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
_logger = logging.getLogger("llamaherd.server")
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
    expires_at: int


_COLUMNS = ", ".join(column.name for column in fields(StoredFile))


@dataclass
class Draft:
    """A file that is being written; gone at the end of its `with` unless it is `stored` then.

    Attributes:
      is_bounded: Whether the quota may refuse it; it counts in any case.
      stored: Whether the database knows it.
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
        """Raises ApiError if the tenant's files have no room for it."""
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
        """When this returns the file is on disk under its own name."""
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
            return  # the database may know it
        for path in (self._path, self.folder / self.id):
            path.unlink(missing_ok=True)
        self.quota.add(self.tenant, -1, -self.n_bytes)


def insert_file(connection: sqlite3.Connection, file: StoredFile) -> None:
    connection.execute(
        f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(file)
    )


class FileStore:
    """The files of a folder. One is there if the database says so: what else lies in the folder
    was left by a process that was killed."""

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
        """What is known of a draft that is whole.

        Args:
          draft: Kept.
          name: As the client calls it.
          purpose: "batch" or "batch_output".
          expires_after_s: When it goes; None: with the age of `longest_s`.
        """
        now = int(time.time())
        expires_at = now + (expires_after_s or self.longest_s)
        return StoredFile(draft.id, draft.tenant, name, purpose, draft.n_bytes, now, expires_at)

    def path(self, file: StoredFile) -> Path:
        return self._folder / file.id

    async def add(self, draft: Draft, file: StoredFile) -> None:
        """Make a kept draft known."""
        await self._database.run(lambda connection: insert_file(connection, file))
        draft.stored = True

    async def require_whole(self, file: StoredFile) -> None:
        """Raises ApiError if the disk has not the bytes that were stored."""
        try:
            found = (await asyncio.to_thread(self.path(file).stat)).st_size
        except OSError as error:
            if error.errno in PASSING:
                raise
            found = 0
        if found != file.n_bytes:
            message = f"the server has lost the content of file {file.id}: delete it"
            raise ApiError(404, message, code="file_lost")

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
                f"SELECT id FROM batches WHERE input_file_id = ? AND {IS_UNFINISHED}",
                [file_id],
            ).fetchone()
            if reader:
                raise ApiError(400, f"batch {reader['id']} still reads the file", code="in_use")
            connection.execute("DELETE FROM files WHERE id = ?", [file_id])
            return file

        await self._remove([await self._database.run(work)])

    async def recover(self) -> None:
        """Count what is there, and remove what a killed process has left. To be called once, before
        anything begins."""

        def work(connection: sqlite3.Connection) -> list[StoredFile]:
            # Files of a folder of version 1.
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
        """How many files were removed: their time is over, and no batch reads them."""

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
    """Remove a file that nothing refers to; what cannot be removed stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("%s cannot be removed: %s", path.name, error.strerror)


def _find(connection: sqlite3.Connection, file_id: str, tenant: str) -> StoredFile:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND tenant = ?", [file_id, tenant]
    ).fetchone()
    if row is None:
        raise ApiError(404, f"there is no file {file_id!r}", code="file_not_found")
    return StoredFile(*row)
