"""Times of the last minute."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable

_SECONDS = 60
_STEP = math.log(1.05)  # of neighbouring buckets: quantiles are right to 2.5 %
_LEAST_S = 1e-6


class RecentTimes:
    """Quantiles of what the last minute brought.

    However much that is, they cost the same to keep and to read: durations are counted in buckets,
    for each second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[tuple[int, Counter[int]]] = deque()
        self._total: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """One more duration, of now."""
        now = self._forget()
        if not self._seconds or self._seconds[-1][0] != now:
            self._seconds.append((now, Counter()))
        bucket = round(math.log(max(seconds, _LEAST_S)) / _STEP)
        self._seconds[-1][1][bucket] += 1
        self._total[bucket] += 1

    def quantile(self, part: float) -> float | None:
        """The duration that this part of all does not exceed, in seconds; None: there was none."""
        self._forget()
        n_left = math.ceil(part * self._total.total())
        for bucket, n in sorted(self._total.items()):
            n_left -= n
            if n > 0 and n_left <= 0:
                return math.exp(bucket * _STEP)
        return None

    def _forget(self) -> int:
        now = int(self._clock())
        while self._seconds and self._seconds[0][0] <= now - _SECONDS:
            self._total.subtract(self._seconds.popleft()[1])
        return now
