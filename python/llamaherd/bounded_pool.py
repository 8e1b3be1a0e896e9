"""Thread pools with bounded queues, for calls that may take long."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from llamaherd._core import QueueFullError

T = TypeVar("T")


class PoolFullError(QueueFullError):
    """The pool's queue is full."""

    retry_after_s = 1.0


class BoundedPool:
    """A thread pool with a bounded queue. Calls start in order of submission.

    Its threads are daemons: a call that never returns does not prevent the process from exiting.

    Args:
      name: Name in messages and of the threads.
      n_threads: Maximum concurrent calls, >= 1.
      max_waiting: Maximum queued calls, >= 0; further calls are rejected.
      stuck_after_s: The pool counts as stuck if all threads have been busy with their current calls
        for longer.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(
        self, name: str, n_threads: int, max_waiting: int, *, stuck_after_s: float = 30
    ) -> None:
        self.name = name
        self.stuck_after_s = stuck_after_s
        self._state = _State(name, n_threads, max_waiting)
        weakref.finalize(self, self._state.close)
        _pools.add(self)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call.

        Returns:
          The call's future. Cancelling it before the call begins removes the call from the queue.

        Raises:
          PoolFullError: max_waiting calls are queued.
          RuntimeError: The pool is closed.
        """
        return self._state.submit(call)

    async def run(self, call: Callable[[], T]) -> T:
        """Submit a call and await its result. Raises as the call, and as `submit`."""
        return await asyncio.wrap_future(self.submit(call))

    @property
    def stuck_for_s(self) -> float:
        """Seconds for which all threads have been busy with one call each; 0 if one is idle."""
        return self._state.stuck_for_s()

    def close(self) -> None:
        """Cancel queued calls. Running calls are neither cancelled nor awaited."""
        self._state.close()


_pools: weakref.WeakSet[BoundedPool] = weakref.WeakSet()


def stuck_pools() -> dict[str, float]:
    """Stuck pools (see `BoundedPool`): name -> seconds."""
    found = [(pool, pool.stuck_for_s) for pool in list(_pools)]
    return {pool.name: stuck_s for pool, stuck_s in found if stuck_s > pool.stuck_after_s}


class _State:
    """State shared by a pool's threads, which must not keep the pool alive."""

    def __init__(self, name: str, n_threads: int, max_waiting: int) -> None:
        self._name = name
        self._n_threads = n_threads
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._n_idle = 0
        self._n_alive = 0
        self._begun: dict[int, float] = {}  # start of running calls, by thread
        self._closed = False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError(f"the pool {self._name} is closed")
            self._require_room()
            self._waiting.append((future, call))
            if self._n_idle < len(self._waiting) and self._n_alive < self._n_threads:
                self._n_alive += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            self._changed.notify()
        return future

    def _require_room(self) -> None:
        n_free = self._n_threads - len(self._begun)
        if len(self._waiting) < self._max_waiting + n_free:
            return
        self._waiting = deque(item for item in self._waiting if not item[0].cancelled())
        if len(self._waiting) >= self._max_waiting + n_free:
            raise PoolFullError(
                f"{self._name}: at most {self._max_waiting} calls may be queued; retry later"
            )

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            with self._changed:
                self._begun.pop(me, None)
                self._n_idle += 1
                while not self._waiting and not self._closed:
                    self._changed.wait()
                self._n_idle -= 1
                if not self._waiting:
                    self._n_alive -= 1
                    return
                future, call = self._waiting.popleft()
                self._begun[me] = time.monotonic()
            _run(future, call)
            del future, call

    def stuck_for_s(self) -> float:
        with self._changed:
            if len(self._begun) < self._n_threads:
                return 0.0
            return time.monotonic() - max(self._begun.values())

    def close(self) -> None:
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for future, _ in waiting:
            future.cancel()


def _run(future: Future[T], call: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
