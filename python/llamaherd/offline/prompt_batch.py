"""Runs a list of prompts through an engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event

from llamaherd._core import FinishReason, InvalidRequestError, QueueFullError
from llamaherd.config.params import SamplingParams, SchedulingOptions
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.engine.prepared_request import PreparedRequest
from llamaherd.engine.stream import Stream
from llamaherd.offline.progress import Bar
from llamaherd.request.chat import ChatOptions
from llamaherd.request.prompt import Prompt, is_messages
from llamaherd.request.result import RequestOutput, Usage

# Number of prompts that are prepared and sorted before they are submitted.
_WINDOW = 512
_STOP_POLL_S = 0.1  # polling interval of the stop event
_CANCELLED = RequestOutput("", [], FinishReason.CANCELLED, "", Usage(0, 0, 0), None)


class PromptBatch:
    """Runs a list of prompts through an engine. Leaving the context by an exception, or setting
    `stop`, cancels all requests."""

    def __init__(
        self,
        engine: BatchEngine,
        n_jobs: int,
        chat: ChatOptions | None,
        space: int | None,
        scheduling: SchedulingOptions,
        bar: Bar,
        stop: Event | None = None,
    ) -> None:
        self._engine = engine
        self._chat = chat
        self._space = space
        self._scheduling = scheduling
        self._bar = bar
        self._stop = stop
        self._items: list[Stream | RequestOutput | None] = [None] * n_jobs
        self._n_open = 0
        self._finished: SimpleQueue[Stream] = SimpleQueue()

    def of(self, jobs: Sequence[tuple[Prompt, SamplingParams | None]]) -> list[RequestOutput]:
        """Run all jobs and return their outputs in order."""
        self._submit(jobs)
        while self._n_open > 0:
            self._collect_finished(timeout=None if self._stop is None else _STOP_POLL_S)
            self._cancel_if_stopped()
        return [s.result() if isinstance(s, Stream) else s or _CANCELLED for s in self._items]

    def _submit(self, jobs: Sequence[tuple[Prompt, SamplingParams | None]]) -> None:
        """Submit all jobs, sorted within windows so that common prefixes are adjacent."""
        for begin in range(0, len(jobs), _WINDOW):
            prepared = [self._prepare_or_reject(*job) for job in jobs[begin : begin + _WINDOW]]
            ready: list[tuple[int, PreparedRequest]] = []
            for i, item in enumerate(prepared, begin):
                if isinstance(item, RequestOutput):
                    self._items[i] = item
                else:
                    ready.append((i, item))
            ready.sort(key=lambda item: [int(token) for token in item[1].token_ids])
            waiting = deque(ready)
            while waiting:
                if self._cancel_if_stopped():
                    return
                full = self._queue_some(waiting)
                if full is not None:
                    self._collect_finished(timeout=full.retry_after_s)

    def _prepare_or_reject(
        self, prompt: Prompt, params: SamplingParams | None
    ) -> PreparedRequest | RequestOutput:
        try:
            chat = self._chat if is_messages(prompt) else None
            return self._engine._prepare(prompt, params, chat)
        except InvalidRequestError as error:
            return _rejected(error)

    def _queue_some(self, waiting: deque[tuple[int, PreparedRequest]]) -> QueueFullError | None:
        """Submit jobs, planned into the same step, until all are queued or the queue is full."""
        with self._engine._together():
            while waiting:
                i, prepared = waiting[0]
                try:
                    stream = self._engine._queue(
                        prepared, self._space, self._scheduling, keep_deltas=False
                    )
                except QueueFullError as full:
                    return full
                except InvalidRequestError as error:
                    self._items[i] = _rejected(error)
                else:
                    self._items[i] = stream
                    self._n_open += 1
                    stream._put_into_when_done(self._finished)
                waiting.popleft()
        return None

    def _collect_finished(self, timeout: float | None) -> None:
        with suppress(Empty):
            stream = self._finished.get(timeout=timeout)
            self._n_open -= 1
            self._bar.count(stream.result())

    def __enter__(self) -> PromptBatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        self._cancel()

    def _cancel_if_stopped(self) -> bool:
        """Cancel all requests if stop is set; returns whether it is."""
        if self._stop is None or not self._stop.is_set():
            return False
        self._cancel()
        return True

    def _cancel(self) -> None:
        for item in self._items:
            if isinstance(item, Stream):
                item.cancel()


def _rejected(error: InvalidRequestError) -> RequestOutput:
    nothing = Usage(0, 0, 0)
    return RequestOutput("", [], FinishReason.ERROR, str(error), nothing, None, exception=error)
