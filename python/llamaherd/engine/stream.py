"""Streams: the output of one request as it is generated."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue

from llamaherd._core import (
    Delta,
    EngineDeadError,
    FinishReason,
    RequestProgress,
    Timing,
    TokenLogprob,
)
from llamaherd.request.assistant_message import AssistantMessage, MessageReader
from llamaherd.request.result import RequestOutput, Usage

_WAIT_S = 0.1  # Ctrl-C is handled between two waits
Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class _Output:
    """The deltas received for one output."""

    def __init__(self, reader: MessageReader | None) -> None:
        self.reader = reader
        self.last: Delta | None = None
        self.text: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []

    def put(self, delta: Delta) -> None:
        self.last = delta
        self.token_ids += delta.token_ids
        if delta.text:
            self.text.append(delta.text)
        self.logprobs += delta.logprobs
        self.prompt_logprobs += delta.prompt_logprobs

    @property
    def finished(self) -> bool:
        return self.last is not None and self.last.finish_reason is not None

    @property
    def usage(self) -> Usage:
        last = self.last
        return Usage(last.n_prompt, last.n_cached, last.n_completion) if last else Usage(0, 0, 0)

    def result(self) -> RequestOutput:
        last = self.last
        assert last is not None
        reason = last.finish_reason
        assert isinstance(reason, FinishReason)
        return RequestOutput(
            text="".join(self.text),
            token_ids=list(self.token_ids),
            finish_reason=reason,
            error=last.error,
            usage=self.usage,
            timing=last.timing,
            logprobs=list(self.logprobs),
            prompt_logprobs=list(self.prompt_logprobs),
            index=last.index,
            reply=self._reply(),
        )

    def _reply(self) -> AssistantMessage | None:
        if self.reader is None:
            return None
        return self.reader.read_all("".join(self.text))


def _mean_logprob(result: RequestOutput) -> float:
    n = len(result.logprobs)
    return sum(token.logprob for token in result.logprobs) / n if n else -math.inf


class Stream:
    """The output of one prompt; with SamplingParams.n several outputs, told apart by delta.index.

    Iterate over it (``for`` or ``async for``) to get each `Delta` as it is generated, or call
    `result()` to wait for the end; both can be combined in any order. As a context manager it
    cancels an unfinished request on exit. A failed request raises nothing: check finish_reason.

    Thread safety:
      All methods may be called from any thread. Concurrent iterators of one stream share its
      deltas: each delta is delivered to one of them.
    """

    def __init__(
        self,
        request_ids: Sequence[int],
        cancel: Callable[[int], None],
        *,
        n_kept: int = 1,
        keep_deltas: bool = True,
        keep_logprobs: bool = True,
        new_reader: Callable[[], MessageReader | None] = lambda: None,
        unenforced: tuple[tuple[str, str], ...] = (),
        ask_progress: Callable[[int, float], RequestProgress | None] = lambda *_: None,
    ) -> None:
        self.request_id = request_ids[0]
        self._unenforced = unenforced
        self._request_ids = request_ids
        self._cancel = cancel
        self._ask_progress = ask_progress
        self._n_kept = n_kept
        self._keep_logprobs = keep_logprobs
        self._keep_deltas = keep_deltas
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._deltas: deque[Delta] = deque()
        self._new_reader = new_reader
        self._outputs = [_Output(new_reader()) for _ in request_ids]
        self._finished = False
        self._waiters: list[Waiter] = []  # until the next delta
        self._end_waiters: list[Waiter] = []
        self._done_queues: list[SimpleQueue[Stream]] = []

    def cancel(self) -> None:
        """Cancel the request. Returns immediately; its KV cells are free within one step."""
        for request_id, output in zip(self._request_ids, self._outputs, strict=True):
            if not output.finished:
                self._cancel(request_id)

    def new_reader(self) -> MessageReader | None:
        """A new incremental parser for the deltas of one output; None if the prompt is no chat."""
        return self._new_reader()

    @property
    def unenforced(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a tool's name and a keyword of its schema that the tool's calls may violate.

        In place of a keyword: "size" if the schema is too large, "unsatisfiable" if no value
        conforms to it, "schema" for other reasons. Then arguments are any JSON.
        """
        return self._unenforced

    @property
    def finished(self) -> bool:
        """Whether the last delta was received."""
        return self._finished

    @property
    def usage(self) -> Usage:
        """Token counts so far, summed over all outputs; zeros before the first delta."""
        first = self._outputs[0].usage
        n_completion = sum(output.usage.completion_tokens for output in self._outputs)
        return Usage(first.prompt_tokens, first.cached_tokens, n_completion)

    @property
    def timing(self) -> Timing | None:
        """Timing of the first output as of its last delta; None before the first delta."""
        last = self._outputs[0].last
        return last.timing if last else None

    def progress(self, timeout: float | None = None) -> RequestProgress | None:
        """Progress of the prompt, and the place in the queue, before the first token and while the
        request is preempted. With several outputs that of the first.

        It changes with each step of the engine, and takes time in those steps only in which it is
        asked for.

        Args:
          timeout: Maximum seconds to wait for the end of a step, >= 0. None: no limit. 0, or no
            step has ended: as of the step after the previous call; at the first call an estimate.

        Returns:
          The progress; None: the request has ended.

        Raises:
          EngineDeadError: The stream is used in a child process of ``os.fork()``.
        """
        self._require_own_process()
        begin_ns = time.monotonic_ns()
        until_s = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            known = self._ask_progress(self.request_id, min(left_s, _WAIT_S))
            if known is None or known.time_ns >= begin_ns or left_s == 0:
                return known

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Wait until the request ends.

        Args:
          timeout: Maximum seconds to wait. None: no limit.

        Returns:
          The whole output, including deltas that were iterated over.

        Raises:
          TimeoutError: The request did not end in time; it continues.
          EngineDeadError: The stream is used in a child process of ``os.fork()``.
        """
        self._require_own_process()
        with self._changed:
            if not self._changed.wait_for(lambda: self._finished, timeout):
                raise TimeoutError(f"request {self.request_id} did not end within {timeout} s")
            return self._make_result()

    async def aresult(self) -> RequestOutput:
        """As `result()` without timeout, for asyncio."""
        await self.await_end()
        return self._make_result()

    async def await_end(self) -> None:
        """Wait for the end of the request in asyncio: `result()` then returns immediately.

        Raises:
          EngineDeadError: In a child process of ``os.fork()``.
        """
        self._require_own_process()
        while not self._finished:
            await self._wait(for_end=True)

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
        last = self._outputs[0].last
        state = last.finish_reason if self._finished and last else "running"
        return f"Stream(request_id={self.request_id}, {state})"

    async def _wait(self, *, for_end: bool = False) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._changed:
            if self._finished or (self._deltas and not for_end):
                return
            waiters = self._end_waiters if for_end else self._waiters
            waiters.append((loop, future))
        await future

    def _put(self, delta: Delta) -> list[Waiter]:
        """Add a delta. Returns the asyncio waiters that the caller must wake."""
        with self._changed:
            self._outputs[delta.index].put(delta)
            if self._keep_deltas:
                self._deltas.append(delta)
            self._finished = all(output.finished for output in self._outputs)
            self._changed.notify_all()
            waiters, self._waiters = self._waiters, []
            if self._finished:
                waiters += self._end_waiters
                self._end_waiters = []
                for queue in self._done_queues:
                    queue.put(self)
        return waiters

    def _put_into_when_done(self, queue: SimpleQueue[Stream]) -> None:
        with self._changed:
            if self._finished:
                queue.put(self)
            else:
                self._done_queues.append(queue)

    def _make_result(self) -> RequestOutput:
        results = [output.result() for output in self._outputs]
        if len(results) == 1:
            return results[0]
        if self._n_kept < len(results):
            results.sort(key=_mean_logprob, reverse=True)
        if not self._keep_logprobs:
            results = [replace(result, logprobs=[]) for result in results]
        choices = tuple(results[: self._n_kept])
        return replace(choices[0], usage=self.usage, choices=choices)

    def _require_own_process(self) -> None:
        # Before any lock is acquired: a fork may have copied it in the locked state.
        if os.getpid() != self._pid:
            raise EngineDeadError(
                f"a stream cannot be used after fork: created in process {self._pid}, called in "
                f"process {os.getpid()}"
            )


def as_completed(streams: Iterable[Stream]) -> Iterator[Stream]:
    """Yield streams as their requests end, in that order.

    Args:
      streams: Streams of one or several engines.

    Raises:
      EngineDeadError: A stream is used in a child process of ``os.fork()``.
    """
    done: SimpleQueue[Stream] = SimpleQueue()
    n_streams = 0
    for stream in streams:
        stream._require_own_process()
        stream._put_into_when_done(done)
        n_streams += 1
    for _ in range(n_streams):
        yield done.get()
