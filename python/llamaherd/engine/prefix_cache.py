"""Public control of an engine's prefix cache."""

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
    """The prefix cache of an engine: ``engine.cache``.

    Prefix caching is automatic: KV data of common prefixes is shared between running, queued and
    finished requests. This class reports metrics, pins prefixes and clears the cache.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(self, core: _core.BatchEngine, compute: _Compute) -> None:
        self._core = core
        self._compute = compute

    def pin(
        self, name: str, prefix: Any, *, ttl_s: float | None = None, cache_salt: str = ""
    ) -> Stream:
        """Compute a prefix and evict it last from now on.

        Pinned prefixes are still evicted when running requests need their cells. They then move to
        the lower tiers, if configured, stay pinned, and are restored for requests that use them.

        Args:
          name: Any text. A pin of the same name is replaced.
          prefix: Text, token ids or chat messages at the start of prompts. Messages are rendered
            without generation prompt.
          ttl_s: Seconds until the pin expires, > 0. None: until `unpin()`.
          cache_salt: Salt of the requests that use the prefix.

        Returns:
          A stream that ends when the prefix is computed; ``.result()`` blocks until then.

        Raises:
          InvalidRequestError: An argument is invalid; the message states the rule and the value.
          TypeError: The prefix has none of these types.
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
        """Remove a pin. Unknown names are ignored.

        Raises:
          EngineDeadError: The engine is closed or stopped.
        """
        self._core.unpin(name)

    def clear(self) -> None:
        """Remove all pins, and all cached data that running requests do not use, disk included.

        Raises:
          EngineDeadError: The engine is closed or stopped.
        """
        self._core.clear_cache()

    def stats(self) -> CacheMetrics:
        """Metrics of the prefix cache as of the last step."""
        return self._core.metrics().cache


def cache_space(salt: str) -> int:
    """The core's 64-bit id of a salt: a cryptographic hash, so that a salt that collides with
    another tenant's cannot be constructed."""
    if not isinstance(salt, str):
        raise TypeError(f"cache_salt must be a str; got {type(salt).__name__}")
    if not salt:
        return 0
    return int.from_bytes(hashlib.sha256(salt.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def request_space(*, cache: bool, cache_salt: str) -> int | None:
    """The core's cache namespace for a request; None: a private request."""
    if not isinstance(cache, bool):
        raise TypeError(f"cache must be a bool; got {type(cache).__name__}")
    space = cache_space(cache_salt)
    return space if cache else None
