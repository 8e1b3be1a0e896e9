"""Thread pools for calls that would block the event loop."""

from __future__ import annotations

from llamaherd.bounded_pool import BoundedPool

LARGE_BYTES = 1 << 16  # tokenizing a larger body may take some tenths of a second


class ThreadPools:
    """One pool per kind of work, so that kinds do not block each other; a full pool raises
    PoolFullError."""

    def __init__(self) -> None:
        self.texts = BoundedPool("texts", 4, 2048)
        self.constraints = BoundedPool("constrained requests", 8, 512)
        self.large_texts = BoundedPool("large texts", 2, 64)
        # These threads wait for models most of the time.
        self.compute = BoundedPool("embeddings and scores", 16, 256, stuck_after_s=300)
        self.answers = BoundedPool("large answers", 2, 1024)

    def of_texts(self, n_bytes: int) -> BoundedPool:
        """The pool for tokenizing the texts of a body of `n_bytes`."""
        return self.texts if n_bytes < LARGE_BYTES else self.large_texts
