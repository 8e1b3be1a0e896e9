"""The prefix cache of an engine, as its users see and steer it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llamaherd import _core
from llamaherd._core import CacheMetrics, InvalidRequestError

if TYPE_CHECKING:
    from llamaherd.engine.stream import Stream

_Compute = Callable[[Any, int], "tuple[list[int], Stream]"]


class PrefixCacheControl:
    """What an engine remembers of prompts and answers: ``engine.cache``.

    Requests share what they begin with without being told to: with those that run, with those that
    wait beside them, and with what earlier ones left. This is for looking at it and for saying what
    must stay.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(self, core: _core.BatchEngine, compute: _Compute) -> None:
        self._core = core
        self._compute = compute

    def pin(
        self, name: str, prefix: Any, *, ttl_s: float | None = None, cache_salt: str = ""
    ) -> Stream:
        """Compute a prefix and evict it last from then on.

        Pinned prefixes still give way to what running requests need, and move to the lower tiers
        then if there are any; they stay pinned, and requests that begin with them bring them back.

        Args:
          name: Any text; a pin of the same name is replaced.
          prefix: Text, token ids or chat messages that prompts begin with. Messages are rendered
            without the beginning of an answer.
          ttl_s: Seconds after which the pin ends, > 0. None: with `unpin()`.
          cache_salt: As given to the requests that share it.

        Returns:
          A stream that ends when the prefix is computed; ``.result()`` waits for it.

        Raises:
          InvalidRequestError: A rule is broken; the message states it and the value.
          TypeError: The prefix is of none of these types.
          EngineDeadError: The engine is closed or stopped.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a str; got {type(name).__name__}")
        if ttl_s is not None and not (ttl_s > 0 and math.isfinite(ttl_s)):
            raise InvalidRequestError(f"ttl_s must be > 0 and finite; got {ttl_s}")
        space = cache_space(cache_salt)
        token_ids, stream = self._compute(prefix, space)
        self._core.pin(name, token_ids, space, ttl_s)
        return stream

    def unpin(self, name: str) -> None:
        """End a pin; one that is not there is ignored.

        Raises:
          EngineDeadError: The engine is closed or stopped.
        """
        self._core.unpin(name)

    def clear(self) -> None:
        """Forget all that no running request needs, in memory and on disk, and all pins.

        Raises:
          EngineDeadError: The engine is closed or stopped.
        """
        self._core.clear_cache()

    def stats(self) -> CacheMetrics:
        """The cache's figures as of the last step."""
        return self._core.metrics().cache


def cache_space(salt: str) -> int:
    """The core's number for a salt. Its 64 bits are a cryptographic hash's: nobody can find a salt
    that shares with another's."""
    if not isinstance(salt, str):
        raise TypeError(f"cache_salt must be a str; got {type(salt).__name__}")
    if not salt:
        return 0
    return int.from_bytes(hashlib.sha256(salt.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def request_space(*, cache: bool, cache_salt: str) -> int | None:
    """The core's number for what a request may share; None: nothing."""
    if not isinstance(cache, bool):
        raise TypeError(f"cache must be a bool; got {type(cache).__name__}")
    space = cache_space(cache_salt)
    return space if cache else None
