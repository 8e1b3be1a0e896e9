"""Quantiles of durations of the last minute."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable

_SECONDS = 60
_STEP = math.log(1.05)  # log ratio of adjacent buckets: quantiles are exact to 2.5 %
_LEAST_S = 1e-6


class RecentQuantiles:
    """Quantiles of the durations of the last minute.

    Durations are counted in buckets per second: memory and time do not depend on their number.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[tuple[int, Counter[int]]] = deque()
        self._total: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Add a duration that ends now."""
        now = self._forget()
        if not self._seconds or self._seconds[-1][0] != now:
            self._seconds.append((now, Counter()))
        bucket = round(math.log(max(seconds, _LEAST_S)) / _STEP)
        self._seconds[-1][1][bucket] += 1
        self._total[bucket] += 1

    def quantile(self, part: float) -> float | None:
        """The quantile `part` in [0, 1], in seconds; None: no samples."""
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
