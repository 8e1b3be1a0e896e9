"""One request's output, as it comes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from queue import SimpleQueue

from llamaherd._core import Delta, EngineDeadError, FinishReason
from llamaherd.result import Result, Usage

Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Stream:
    """The output of one submitted request.

    Iterate over it (``for`` or ``async for``) to get each `Delta` as it is made, or call
    `result()` to wait for the end; both work, in any order. As a context manager it cancels the
    request on exit if that has not ended. Errors of the request are data: look at finish_reason.

    Thread safety:
      All methods may be called from any thread. Several iterators of one stream share its deltas:
      each delta goes to one of them.
    """

    def __init__(
        self, request_id: int, cancel: Callable[[int], None], *, keep_deltas: bool = True
    ) -> None:
        self.request_id = request_id
        self._cancel = cancel
        self._keep_deltas = keep_deltas
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._deltas: deque[Delta] = deque()
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._last: Delta | None = None
        self._finished = False
        self._waiters: list[Waiter] = []
        self._done_queues: list[SimpleQueue[Stream]] = []

    def cancel(self) -> None:
        """Ask for the request's end. Returns at once; its cells are free within one step."""
        if not self._finished:
            self._cancel(self.request_id)

    @property
    def finished(self) -> bool:
        """Whether the last delta has come."""
        return self._finished

    @property
    def usage(self) -> Usage:
        """Token counts so far; zeros before the first delta."""
        last = self._last
        if last is None:
            return Usage(0, 0, 0)
        return Usage(last.n_prompt, last.n_cached, last.n_completion)

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the request's end.

        Args:
          timeout: Seconds to wait at most; None: for ever.

        Returns:
          The whole output, whether or not it was iterated over.

        Raises:
          TimeoutError: It did not end in time. It goes on.
          EngineDeadError: This process is a fork of the one that runs the engine.
        """
        self._require_own_process()
        with self._changed:
            if not self._changed.wait_for(lambda: self._finished, timeout):
                raise TimeoutError(f"request {self.request_id} did not end in {timeout} s")
            return self._make_result()

    async def aresult(self) -> Result:
        """As `result()`, for asyncio."""
        self._require_own_process()
        while not self._finished:
            await self._wait(for_end=True)
        return self._make_result()

    def __iter__(self) -> Iterator[Delta]:
        self._require_own_process()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._deltas or self._finished)
                if not self._deltas:
                    return
                delta = self._deltas.popleft()
            yield delta

    async def __aiter__(self) -> AsyncIterator[Delta]:
        self._require_own_process()
        while True:
            with self._changed:
                delta = self._deltas.popleft() if self._deltas else None
                ended = self._finished
            if delta is not None:
                yield delta
            elif ended:
                return
            else:
                await self._wait()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        state = self._last.finish_reason if self._finished and self._last else "running"
        return f"Stream(request_id={self.request_id}, {state})"

    async def _wait(self, *, for_end: bool = False) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._changed:
            if self._finished or (self._deltas and not for_end):
                return
            self._waiters.append((loop, future))
        await future

    def _put(self, delta: Delta) -> list[Waiter]:
        """Takes the next delta; returns who waits for it in asyncio, to be woken by the caller."""
        with self._changed:
            self._last = delta
            self._token_ids += delta.token_ids
            if delta.text:
                self._text.append(delta.text)
            if self._keep_deltas:
                self._deltas.append(delta)
            self._finished = delta.finish_reason is not None
            self._changed.notify_all()
            waiters, self._waiters = self._waiters, []
            if self._finished:
                for queue in self._done_queues:
                    queue.put(self)
        return waiters

    def _put_into_when_done(self, queue: SimpleQueue[Stream]) -> None:
        with self._changed:
            if self._finished:
                queue.put(self)
            else:
                self._done_queues.append(queue)

    def _make_result(self) -> Result:
        last = self._last
        assert last is not None
        reason = last.finish_reason
        assert isinstance(reason, FinishReason)
        return Result(
            text="".join(self._text),
            token_ids=list(self._token_ids),
            finish_reason=reason,
            error=last.error,
            usage=self.usage,
            timing=last.timing,
        )

    def _require_own_process(self) -> None:
        # Before any lock is touched: a fork may have copied it locked.
        if os.getpid() != self._pid:
            raise EngineDeadError(
                f"this stream belongs to process {self._pid}; its engine does not run here"
            )


def as_completed(streams: Iterable[Stream]) -> Iterator[Stream]:
    """The streams in the order in which they end, each as soon as it has.

    Args:
      streams: Of any engines.

    Raises:
      EngineDeadError: This process is a fork of the one that runs an engine.
    """
    done: SimpleQueue[Stream] = SimpleQueue()
    n_streams = 0
    for stream in streams:
        stream._require_own_process()
        stream._put_into_when_done(done)
        n_streams += 1
    for _ in range(n_streams):
        yield done.get()
