"""Threads for calls that may take long."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from llamaherd import QueueFullError
from llamaherd.bounded_pool import BoundedPool, stuck_pools


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Calls that wait for it end with the test."""
    gate = threading.Event()
    yield gate
    gate.set()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_calls_return_raise_and_keep_their_order() -> None:
    pool = BoundedPool("order", 1, 100)
    done: list[int] = []
    futures = [pool.submit(lambda i=i: done.append(i)) for i in range(50)]  # type: ignore[misc]
    for future in futures:
        future.result(60)
    assert done == list(range(50))
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(60)
    assert pool.submit(lambda: 7).result(60) == 7


def test_a_full_pool_refuses_and_goes_on(gate: threading.Event) -> None:
    pool = BoundedPool("full", 2, 3)
    futures = [pool.submit(gate.wait) for _ in range(5)]
    with pytest.raises(QueueFullError, match="full: at most 3 calls") as full:
        pool.submit(gate.wait)
    assert full.value.retry_after_s > 0
    assert futures[-1].cancel()  # its place is another's
    replacement = pool.submit(lambda: 5)
    with pytest.raises(QueueFullError):
        pool.submit(gate.wait)
    gate.set()
    assert replacement.result(60) == 5
    until(lambda: pool.stuck_for_s == 0)
    assert [pool.submit(lambda: 1).result(60) for _ in range(20)] == [1] * 20


def test_without_a_queue_free_threads_still_take_calls(gate: threading.Event) -> None:
    pool = BoundedPool("no queue", 2, 0)
    futures: list[Future[bool]] = [pool.submit(gate.wait) for _ in range(2)]
    with pytest.raises(QueueFullError):
        pool.submit(gate.wait)
    gate.set()
    assert all(future.result(60) for future in futures)


def test_a_pool_is_stuck_while_all_threads_stay_in_their_calls(gate: threading.Event) -> None:
    pool = BoundedPool("stuck", 2, 10, stuck_after_s=0.01)
    patient = BoundedPool("patient", 1, 10)
    first = threading.Event()
    futures = [pool.submit(first.wait), pool.submit(gate.wait)]
    patient.submit(gate.wait)
    until(lambda: pool.stuck_for_s > 0.05)
    assert stuck_pools()["stuck"] > 0.01
    assert "patient" not in stuck_pools()
    first.set()
    futures[0].result(60)
    until(lambda: pool.stuck_for_s == 0)
    assert "stuck" not in stuck_pools()


def test_a_closed_or_dropped_pool_ends_its_threads(gate: threading.Event) -> None:
    pool = BoundedPool("closed pool", 2, 10)
    pool.submit(gate.wait)
    pool.submit(gate.wait)
    waiting = pool.submit(gate.wait)
    pool.close()
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(gate.wait)
    gate.set()
    other = BoundedPool("dropped pool", 1, 1)
    other.submit(lambda: 1).result(60)
    del other
    gc.collect()
    names = {"closed pool", "dropped pool"}
    until(lambda: not names & {thread.name for thread in threading.enumerate()})


async def test_it_runs_calls_of_an_event_loop() -> None:
    pool = BoundedPool("loop", 1, 1)
    assert await pool.run(lambda: 3) == 3


def test_a_call_that_never_returns_does_not_keep_the_process() -> None:
    script = """
import threading
from llamaherd.bounded_pool import BoundedPool
pool = BoundedPool("forever", 1, 1)
pool.submit(threading.Event().wait)
print("end")
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=120, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"end\n"), done.stderr
