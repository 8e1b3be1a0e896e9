"""File quota per tenant."""

from __future__ import annotations

import threading
from collections import Counter

from llamaherd.server.common.limits import Limits


class FileQuota:
    """Counts files and bytes per tenant, including files being written.

    Thread-safe.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._n_files: Counter[str] = Counter()
        self._n_bytes: Counter[str] = Counter()

    def require(self, tenant: str, *, n_files: int = 0, n_bytes: int = 0) -> None:
        """Add to the counts.

        Raises:
          ApiError: max_files or max_files_mib would be exceeded; the counts stay unchanged.
        """
        with self._lock:
            for name, found in (
                ("max_files", self._n_files[tenant] + n_files),
                ("max_files_mib", self._n_bytes[tenant] + n_bytes),
            ):
                what = "the files of a client (delete some or wait for their expiry) must be"
                self._limits.require(name, found, what=what, param="file")
            self._add(tenant, n_files, n_bytes)

    def add(self, tenant: str, n_files: int, n_bytes: int) -> None:
        """Change the counts without checking the limits."""
        with self._lock:
            self._add(tenant, n_files, n_bytes)

    def _add(self, tenant: str, n_files: int, n_bytes: int) -> None:
        self._n_files[tenant] += n_files
        self._n_bytes[tenant] += n_bytes
