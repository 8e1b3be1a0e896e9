"""Delivery of deltas from the core's outbox to streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading

from llamaherd import _core
from llamaherd._core import Delta
from llamaherd.engine import native_log
from llamaherd.engine.stream import Stream, Waiter
from llamaherd.structured_output.guides import GuideCache
from llamaherd.structured_output.token_masks import TokenMasks

_logger = logging.getLogger("llamaherd")


class StreamTable:
    """Unfinished streams by request id.

    Attributes:
      lock: Held while a request is submitted and while deltas are matched to streams. Never held
        during mask computation.
    """

    def __init__(self, core: _core.BatchEngine, *, threaded: bool) -> None:
        self.lock = threading.Lock()
        self.streams: dict[int, Stream] = {}
        self.guides = GuideCache(core)
        self.masks = TokenMasks(core, threaded=threaded)
        self._advancing = threading.Lock()

    def deliver(self, deltas: list[Delta]) -> None:
        """Deliver deltas to their streams, with one wake-up per event loop."""
        if not deltas:
            return
        with self._advancing:  # before delivery: the engine waits for masks
            with self.lock:
                obeying = self.masks.of(deltas)
            self.masks.advance(obeying)
        waiters: list[Waiter] = []
        with self.lock:
            for delta in deltas:
                stream = self.streams.get(delta.request_id)
                if stream is None:
                    continue
                if delta.finish_reason is not None:
                    del self.streams[delta.request_id]
                waiters += stream._put(delta)
        by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for loop, future in waiters:
            by_loop.setdefault(loop, []).append(future)
        for loop, futures in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_wake, futures)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def pump(core: _core.BatchEngine, table: StreamTable) -> None:
    while not core.finished():
        table.deliver(core.drain(0.1))
        native_log.forward()
    cause = core.fatal_error()
    if cause:
        _logger.error("the engine stopped after a fatal error: %s", cause)


def close(
    core: _core.BatchEngine, table: StreamTable, thread: threading.Thread | None, pid: int
) -> None:
    if os.getpid() != pid:
        return
    core.close()
    if thread is None:
        table.deliver(core.drain(0))
    elif thread.ident is not None and thread is not threading.current_thread():
        thread.join()
    native_log.forward()
