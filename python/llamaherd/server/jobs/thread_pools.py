"""Threads of the server for calls that would block its event loop."""

from __future__ import annotations

from llamaherd.bounded_pool import BoundedPool

LARGE_BYTES = 1 << 16  # tokenizing the texts of a larger body may take some tenths of a second


class ThreadPools:
    """One pool for each kind of work, so that no kind waits for another; work beyond a pool's
    bounds is refused with PoolFullError."""

    def __init__(self) -> None:
        self.texts = BoundedPool("texts", 4, 2048)
        self.constraints = BoundedPool("constrained requests", 8, 512)
        self.large_texts = BoundedPool("large texts", 2, 64)
        # Their threads wait for models most of the time.
        self.compute = BoundedPool("embeddings and scores", 16, 256, stuck_after_s=300)
        self.answers = BoundedPool("large answers", 2, 1024)

    def of_texts(self, n_bytes: int) -> BoundedPool:
        """Where the texts of a body of `n_bytes` are tokenized."""
        return self.texts if n_bytes < LARGE_BYTES else self.large_texts
