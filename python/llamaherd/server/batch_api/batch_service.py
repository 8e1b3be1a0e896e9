"""Opens the batch jobs and files of a data folder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.config.params import EngineConfig
from llamaherd.server.access.api_keys import ApiKey, KeyRing
from llamaherd.server.access.running_counts import RunningCounts
from llamaherd.server.batch_api.batch_runner import BatchRunner
from llamaherd.server.batch_api.batch_store import BatchStore
from llamaherd.server.batch_api.database import Database
from llamaherd.server.batch_api.file_store import FileStore
from llamaherd.server.batch_api.internal_client import InternalHttpClient
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits

_SWEEP_S = 60.0
_logger = logging.getLogger("llamaherd.server")


@dataclass(frozen=True)
class BatchService:
    """Stores and runner of batch jobs."""

    files: FileStore
    store: BatchStore
    runner: BatchRunner


@contextlib.asynccontextmanager
async def open_batches(
    folder: Path,
    routes: InternalHttpClient,
    keys: KeyRing,
    running: RunningCounts,
    *,
    n_lines: int,
    limits: Limits,
    draining: Callable[[], bool],
) -> AsyncIterator[BatchService]:
    """Open the batches of a folder and resume unfinished ones.

    Raises:
      InvalidRequestError: Another server uses the folder, or it cannot be created.
    """
    files_folder = folder / "files"
    try:
        for path in (folder, files_folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)  # owner only
    except OSError as error:
        raise InvalidRequestError(f"cannot create {path}: {error.strerror}") from None
    database = await asyncio.to_thread(Database, folder / "batches.sqlite")
    files, store = FileStore(database, files_folder, limits), BatchStore(database, limits)
    tenants = {key.tenant: key for key in keys.keys}
    runner = BatchRunner(
        store,
        files,
        routes,
        running,
        key_of=lambda tenant: tenants.get(tenant) or ApiKey(tenant=tenant),
        n_lines=n_lines,
        limits=limits,
        draining=draining,
    )
    try:
        await files.recover()
        await store.recover()
        sweeping = asyncio.ensure_future(_sweep(files))
        try:
            for batch in await store.unfinished():
                runner.start(batch)
            yield BatchService(files, store, runner)
        finally:
            sweeping.cancel()
            await runner.close()
            await store.end_cleanly()
    finally:
        await database.close()


async def _sweep(files: FileStore) -> None:
    """Remove expired files periodically; never returns."""
    while True:
        try:
            if n_removed := await files.remove_expired():
                _logger.info("removed expired files", extra={"n_files": n_removed})
        except Exception:
            _logger.exception("cannot remove expired files")
        await asyncio.sleep(_SWEEP_S)


def lines_at_once(configs: Sequence[EngineConfig]) -> int:
    """Concurrent lines: enough to fill every engine and queue as many again, but at most half of a
    bounded queue."""
    return max(_lines_of(config) for config in configs)


def _lines_of(config: EngineConfig) -> int:
    max_seqs, _ = _core.resolve_preset(config._to_core())
    n_waiting = max_seqs if config.max_queued is None else config.max_queued // 2
    return max_seqs + min(max_seqs, n_waiting)


def batches_of(request: Request) -> BatchService:
    """The server's batch jobs. Raises ApiError if it has no data folder."""
    batches: BatchService | None = request.app.state.batches
    if batches is None:
        raise ApiError(
            404,
            "files and batches require a data folder: start the server with --data-dir",
            code="no_data_dir",
        )
    return batches
