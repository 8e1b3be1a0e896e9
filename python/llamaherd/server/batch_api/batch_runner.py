"""Runs the lines of batches.

The state of a batch is in the database and every step is idempotent: a batch resumes after a
failed step or a killed process.

Lines and steps are marked as running in the database before they start. Those that were running
when the process crashed are retried one at a time, exclusively, and fail if the process crashes
again: a line can crash the process twice, and no other line fails because of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamaherd.server.access.api_keys import ApiKey
from llamaherd.server.access.running_counts import RunningCounts
from llamaherd.server.batch_api.batch_input import (
    InputError,
    InputLine,
    LineError,
    read_body,
    read_lines,
    require_size,
)
from llamaherd.server.batch_api.batch_output import answered_line, failed_line
from llamaherd.server.batch_api.batch_store import CRASHED, MOST_CRASHES, Batch, BatchStore, Ended
from llamaherd.server.batch_api.file_store import Draft, FileStore, StoredFile
from llamaherd.server.batch_api.internal_client import InternalHttpClient, InternalResponse
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.isolation import Isolation, wait
from llamaherd.server.common.limits import Limits

_logger = logging.getLogger("llamaherd.server")
_PRIORITY = 100
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before a failed step is retried
_POLL_S = 0.02  # poll interval for a free request of a key
_PAGE = 500
_N_TAKEN = 16  # lines marked as running in one transaction
_BIG = 1 << 18  # bytes of a response that is encoded outside the event loop
_N_WRITTEN = 50  # results in memory at once
_MOST_ERRORS = 10
_EMBEDDINGS = "/v1/embeddings"
_N_EMBEDDINGS = 2  # concurrent lines: each occupies a thread of a shared pool
_EXPIRED = LineError("batch_expired", "the batch's completion window ended before the line was run")
_NO_INPUT = LineError("input_file_lost", "the input file no longer exists")


@dataclass(eq=False)
class _JobState:
    """State of an unfinished batch in this process."""

    task: asyncio.Task[None] | None = None
    halt: asyncio.Event = field(default_factory=asyncio.Event)  # cancelled, expired or closing
    lines: set[asyncio.Task[None]] = field(default_factory=set)
    failure: BaseException | None = None  # server failure while running a line
    expired: bool = False

    def expire(self) -> None:
        self.expired = True
        self.halt.set()


class BatchRunner:
    """Runs batches to completion.

    Args:
      batches: The state of all batches.
      files: Input and output files.
      routes: Client of the routes that lines call.
      running: Counts running lines per key.
      key_of: Returns the API key of a tenant.
      n_lines: Maximum concurrent lines of all batches; batches take turns.
      limits: Limits of lines.
      draining: Returns whether the server is draining: no line or step may start.
    """

    def __init__(
        self,
        batches: BatchStore,
        files: FileStore,
        routes: InternalHttpClient,
        running: RunningCounts,
        *,
        key_of: Callable[[str], ApiKey],
        n_lines: int,
        limits: Limits,
        draining: Callable[[], bool],
    ) -> None:
        self._batches = batches
        self._files = files
        self._routes = routes
        self._running = running
        self._key_of = key_of
        self._limits = limits
        self._draining = draining
        self._slots = asyncio.Semaphore(n_lines)  # first in, first out
        self._embedding = asyncio.Semaphore(_N_EMBEDDINGS)
        self._isolation = Isolation()
        self._runs: dict[str, _JobState] = {}
        self._closing = asyncio.Event()

    def start(self, batch: Batch) -> None:
        """Start or resume a batch in the background."""
        run = self._runs[batch.id] = _JobState()
        run.task = asyncio.ensure_future(self._drive(batch.id, run))

    def halt(self, batch: Batch) -> None:
        """Cancel the running lines; the batch continues with its status in the database."""
        if run := self._runs.get(batch.id):
            run.halt.set()

    async def close(self) -> None:
        """Cancel all lines. Lines without a result are run again after a restart."""
        self._closing.set()
        for run in self._runs.values():
            run.halt.set()
        tasks = [run.task for run in self._runs.values() if run.task]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drive(self, batch_id: str, run: _JobState) -> None:
        pause_s = _FIRST_PAUSE_S
        try:
            while not self._closing.is_set():
                try:
                    await self._advance(batch_id, run)
                    return
                except Exception:
                    _logger.exception("%s failed; retrying in %.0f s", batch_id, pause_s)
                await wait(self._closing, pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            del self._runs[batch_id]

    async def _advance(self, batch_id: str, run: _JobState) -> None:
        batch = await self._batches.get(batch_id)
        if batch.n_crashes >= MOST_CRASHES:
            await self._batches.fail(batch, [(None, CRASHED)])
            batch = await self._batches.get(batch_id)
        if batch.status == "validating":
            async with self._step(batch) as may:
                batch = await self._validate(batch, run) if may else batch
        if batch.status == "in_progress":
            batch = await self._run_lines(batch, run)
        if batch.status in ("finalizing", "cancelling"):
            async with self._step(batch) as may:
                if may:
                    await self._finish(batch)
            batch = await self._batches.get(batch_id)
        extra = {"batch": batch_id, "status": batch.status, "n_lines": batch.n_total}
        _logger.info("batch", extra=extra)

    @contextlib.asynccontextmanager
    async def _step(self, batch: Batch) -> AsyncIterator[bool]:
        """Mark the batch as running a step other than its lines. False: the server is stopping."""
        isolation = self._isolation.alone if batch.n_crashes else self._isolation.shared
        async with isolation(self._closing) as may:
            if not may:
                yield False
                return
            await self._batches.mark(batch, begun=True)
            try:
                yield True
            except BaseException:
                await self._batches.mark(batch, begun=False)
                raise

    async def _validate(self, batch: Batch, run: _JobState) -> Batch:
        await self._batches.clear_lines(batch)
        errors: list[tuple[int | None, LineError]] = []
        is_json = False
        try:
            file = await self._files.find(batch.input_file_id, batch.tenant)
            path = self._files.path(file)
            await asyncio.to_thread(require_size, path, file.n_bytes)
            lines = read_lines(path, batch.endpoint, self._limits)
            while page := await asyncio.to_thread(_take, lines):
                if run.halt.is_set():
                    return await self._batches.get(batch.id)
                await self._batches.add_lines(batch, page)
                is_json |= any(line.is_json for line in page)
                errors += [(line.number, line.error) for line in page if line.error]
                del errors[_MOST_ERRORS:]
        except ApiError:
            errors, is_json = [(None, _NO_INPUT)], False
        except InputError as error:
            errors, is_json = [(None, error.error)], False
        if not is_json:
            empty = LineError("empty_file", "the input file must hold at least 1 line; got 0")
            await self._batches.fail(batch, errors or [(None, empty)])
        return await self._batches.move(batch, ["validating"], "in_progress")

    async def _run_lines(self, batch: Batch, run: _JobState) -> Batch:
        left_s = max(0.0, batch.expires_at - time.time())
        expiry = asyncio.get_running_loop().call_later(left_s, run.expire)
        try:
            if not batch.has_expired and batch.errors is None:
                await self._feed(batch, run)
        finally:
            expiry.cancel()
            await asyncio.gather(*run.lines, return_exceptions=True)
        if run.failure:
            failure, run.failure = run.failure, None
            if not isinstance(failure, InputError):
                raise failure
            await self._batches.lose_input(batch, failure.error)
        batch = await self._batches.get(batch.id)
        if batch.status != "in_progress":
            return batch
        if batch.errors is not None:
            (error,) = json.loads(batch.errors)
            await self._fail_rest(batch, LineError(error["code"], error["message"]))
        elif batch.has_expired or (batch.n_left and run.expired):
            await self._batches.expire(batch)
            await self._fail_rest(batch, _EXPIRED)
        elif batch.n_left:
            return batch  # the server is stopping
        return await self._batches.move(batch, ["in_progress"], "finalizing")

    async def _feed(self, batch: Batch, run: _JobState) -> None:
        """Start lines as slots become free."""
        key = self._key_of(batch.tenant)

        def ended(task: asyncio.Task[None]) -> None:
            self._give_slot(key)
            run.lines.discard(task)
            if not task.cancelled():
                run.failure = run.failure or task.exception()

        path = await self._input_of(batch, run)
        if path is None:
            return
        suspects = await self._batches.suspects(batch)
        after = 0
        while page := suspects or await self._batches.take(batch, after, _N_TAKEN):
            for line in page:
                if not await self._take_slot(key, run):
                    return
                task = asyncio.ensure_future(self._run_line(batch, line, path, run.halt))
                run.lines.add(task)
                task.add_done_callback(ended)
            after = 0 if suspects else page[-1].number
            suspects = []

    async def _input_of(self, batch: Batch, run: _JobState) -> Path | None:
        """The input file; None: it is missing, which is set as the failure of the run."""
        try:
            file = await self._files.find(batch.input_file_id, batch.tenant)
            path = self._files.path(file)
            await asyncio.to_thread(require_size, path, file.n_bytes)
        except ApiError:
            run.failure = InputError(_NO_INPUT.code, _NO_INPUT.message)
            return None
        except InputError as error:
            run.failure = error
            return None
        return path

    async def _take_slot(self, key: ApiKey, run: _JobState) -> bool:
        """Wait for a slot. False: no more lines may start."""
        while not self._running.begin_line(key):
            if self._should_stop(run):
                return False
            await wait(run.halt, _POLL_S)
        await self._slots.acquire()
        if self._should_stop(run):
            self._give_slot(key)
            return False
        return True

    def _give_slot(self, key: ApiKey) -> None:
        self._slots.release()
        self._running.end_line(key)

    def _should_stop(self, run: _JobState) -> bool:
        return run.halt.is_set() or run.failure is not None or self._draining()

    async def _run_line(
        self, batch: Batch, line: InputLine, path: Path, halt: asyncio.Event
    ) -> None:
        while not halt.is_set():
            async with self._under_way(batch, line, halt):
                answer = await self._send(batch, line, path, halt)
                if answer is None:
                    return
                if not _is_retryable(answer):
                    ended = await _ended(line, answer)
                    await self._batches.record(batch, [ended])
                    return
            if self._draining():
                return
            await wait(halt, answer.retry_after_s)

    @contextlib.asynccontextmanager
    async def _under_way(
        self, batch: Batch, line: InputLine, halt: asyncio.Event
    ) -> AsyncIterator[None]:
        """Mark a line as running; exclusively if the process crashed while it ran before."""
        if not line.n_crashes:
            async with self._isolation.shared(halt):
                yield
            return
        async with self._isolation.alone(halt) as may:
            if not may:  # then halt is set
                yield
                return
            await self._batches.mark_line(batch, line, begun=True)
            try:
                yield
            finally:
                await self._batches.mark_line(batch, line, begun=False)

    async def _send(
        self, batch: Batch, line: InputLine, path: Path, halt: asyncio.Event
    ) -> InternalResponse | None:
        """The response of a line; None: the line was not run."""
        body = await asyncio.to_thread(_request, path, line, batch.endpoint)
        gate = self._embedding if batch.endpoint == _EMBEDDINGS else contextlib.nullcontext()
        async with gate:
            if halt.is_set() or self._draining():
                return None
            return await self._routes.post(batch.endpoint, body, self._key_of(batch.tenant), halt)

    async def _fail_rest(self, batch: Batch, error: LineError) -> None:
        while page := await self._batches.pending(batch, 0, _PAGE):
            ended = [
                Ended(line.number, False, failed_line(line.custom_id, error.code, error.message))
                for line in page
            ]
            await self._batches.record(batch, ended)

    async def _finish(self, batch: Batch) -> None:
        status = "expired" if batch.has_expired else "completed"
        if batch.errors is not None:
            status = "failed"
        if batch.status == "cancelling":
            status = "cancelled"
        with contextlib.ExitStack() as drafts:
            written = [await self._write(batch, drafts, ok=ok) for ok in (True, False)]
            output, errors = (file for _, file in written)
            await self._batches.finish(batch, status, output, errors)
            for draft, file in written:
                draft.stored = file is not None

    async def _write(
        self, batch: Batch, drafts: contextlib.ExitStack, *, ok: bool
    ) -> tuple[Draft, StoredFile | None]:
        """Write a file of the lines with outcome `ok`; None: there are no such lines."""
        after = 0
        # The quota does not reject computed results; they count for the next upload.
        draft = drafts.enter_context(self._files.draft(batch.tenant, is_bounded=False))
        while page := await self._batches.ended(batch, ok=ok, after=after, limit=_N_WRITTEN):
            await asyncio.to_thread(_write_results, draft, page)
            after = page[-1].number
        if not draft.n_bytes:
            return draft, None
        await asyncio.to_thread(draft.keep)
        name = f"{batch.id}_{'output' if ok else 'errors'}.jsonl"
        return draft, self._files.describe(draft, name, "batch_output", batch.output_expires_s)


def _request(path: Path, line: InputLine, endpoint: str) -> bytes:
    """The body of a line's request."""
    body = read_body(path, line)
    if endpoint != _EMBEDDINGS and body.get("priority") is None:
        body["priority"] = _PRIORITY
    return json.dumps(body).encode()


async def _ended(line: InputLine, answer: InternalResponse) -> Ended:
    assert line.custom_id is not None
    values = line.custom_id, answer.request_id, answer.status, answer.body
    if len(answer.body) > _BIG:
        text = await asyncio.to_thread(answered_line, *values)
    else:
        text = answered_line(*values)
    return Ended(line.number, answer.status < 400, text)


def _write_results(draft: Draft, lines: Sequence[Ended]) -> None:
    for line in lines:
        draft.write(f"{line.result}\n".encode())


def _take(lines: Iterator[InputLine]) -> list[InputLine]:
    return list(itertools.islice(lines, _PAGE))


def _is_retryable(answer: InternalResponse) -> bool:
    """Whether a retry of the request may give another response."""
    if answer.status == 503:
        return answer.error_code != "model_load_failed"
    return answer.status == 429
