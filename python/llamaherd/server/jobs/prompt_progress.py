"""Progress of the prompts of a request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamaherd.engine.stream import Stream


@dataclass(frozen=True)
class PromptProgress:
    """Sums over the prompts of a request; zeros: not known yet.

    Attributes:
      total: Prompt tokens.
      cache: Of them, taken from the prefix cache.
      processed: Of them, computed or taken from the cache.
      queue_position: Of the prompt that will start last; 1: the next to start, 0: all run.
      start_ns: When the first of them started (time.monotonic_ns); 0: none has.
    """

    total: int = 0
    cache: int = 0
    processed: int = 0
    queue_position: int = 0
    start_ns: int = 0

    @classmethod
    def of(cls, streams: Sequence[Stream]) -> PromptProgress:
        parts = [_of_stream(stream) for stream in streams]
        if not all(part.total for part in parts):
            return cls()
        return cls(
            total=sum(part.total for part in parts),
            cache=sum(part.cache for part in parts),
            processed=sum(part.processed for part in parts),
            queue_position=max((part.queue_position for part in parts), default=0),
            start_ns=min((part.start_ns for part in parts if part.start_ns), default=0),
        )

    @property
    def is_done(self) -> bool:
        """Whether all prompts are computed."""
        return 0 < self.total == self.processed

    def differs(self, last: PromptProgress) -> bool:
        """Whether there is news since `last`."""
        now = (self.processed, self.queue_position)
        return self.total > 0 and (last.total == 0 or now != (last.processed, last.queue_position))

    def body(self) -> dict[str, Any]:
        """llama-server's object, and the position in the queue."""
        ns = time.monotonic_ns() - self.start_ns if self.start_ns else 0
        return {
            "total": self.total,
            "cache": self.cache,
            "processed": self.processed,
            "time_ms": ns // 1_000_000,
            "queue_position": self.queue_position,
        }


def _of_stream(stream: Stream) -> PromptProgress:
    usage, timing = stream.usage, stream.timing
    known = stream.progress(timeout=0)
    if timing is None:
        if known is None:  # the first delta is on its way
            return PromptProgress()
        return PromptProgress(
            known.n_prompt,
            known.n_cached,
            known.n_computed,
            known.queue_position,
            known.start_ns,
        )
    # What is known may be older than the last delta.
    waits = known is not None and known.time_ns > timing.last_ns
    return PromptProgress(
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.prompt_tokens,
        known.queue_position if known is not None and waits else 0,
        timing.start_ns,
    )
