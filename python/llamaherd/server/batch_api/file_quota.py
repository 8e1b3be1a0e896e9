"""What the files of each tenant take."""

from __future__ import annotations

import threading
from collections import Counter

from llamaherd.server.common.limits import Limits


class FileQuota:
    """Counts the files of tenants and their bytes, those included that are being written.

    Thread-safe.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._n_files: Counter[str] = Counter()
        self._n_bytes: Counter[str] = Counter()

    def require(self, tenant: str, *, n_files: int = 0, n_bytes: int = 0) -> None:
        """Count so much more.

        Raises:
          ApiError: It exceeds max_files or max_files_mib; then nothing is counted.
        """
        with self._lock:
            for name, found in (
                ("max_files", self._n_files[tenant] + n_files),
                ("max_files_mib", self._n_bytes[tenant] + n_bytes),
            ):
                what = "the files of a client, before they expire or are deleted, must be"
                self._limits.require(name, found, what=what, param="file")
            self._add(tenant, n_files, n_bytes)

    def add(self, tenant: str, n_files: int, n_bytes: int) -> None:
        """Count so much more, or less, whatever the bounds."""
        with self._lock:
            self._add(tenant, n_files, n_bytes)

    def _add(self, tenant: str, n_files: int, n_bytes: int) -> None:
        self._n_files[tenant] += n_files
        self._n_bytes[tenant] += n_bytes
