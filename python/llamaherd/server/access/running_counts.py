"""Concurrent requests per API key."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from llamaherd.server.access.api_keys import ApiKey
from llamaherd.server.common.errors import ApiError


class RunningCounts:
    """Counts running requests by key name, lines of batches included."""

    def __init__(self) -> None:
        self._n: Counter[str] = Counter()
        self._n_lines: Counter[str] = Counter()

    @contextlib.contextmanager
    def request(self, key: ApiKey) -> Iterator[None]:
        """Count a request as running within the `with`.

        Raises:
          ApiError: The key has reached max_running (429).
        """
        if not self._has_room(key):
            raise ApiError(
                429,
                f"key {key.tenant} may run at most {key.max_running} requests concurrently",
                code="rate_limit_exceeded",
                retry_after_s=1,
            )
        self._n[key.tenant] += 1
        try:
            yield
        finally:
            self._n[key.tenant] -= 1

    def begin_line(self, key: ApiKey) -> bool:
        """Whether a line of a batch may run; if so it counts until `end_line`. Lines use at most
        half of a key's max_running, rounded up."""
        most = key.max_running
        full = most is not None and self._n_lines[key.tenant] >= (most + 1) // 2
        if full or not self._has_room(key):
            return False
        self._n[key.tenant] += 1
        self._n_lines[key.tenant] += 1
        return True

    def end_line(self, key: ApiKey) -> None:
        self._n[key.tenant] -= 1
        self._n_lines[key.tenant] -= 1

    def _has_room(self, key: ApiKey) -> bool:
        return key.max_running is None or self._n[key.tenant] < key.max_running
