"""Fits the number of connections to the limit of file descriptors."""

from __future__ import annotations

import dataclasses
import logging
import os

from llamaherd._core import InvalidRequestError
from llamaherd.server.common.limits import Limits

_logger = logging.getLogger("llamaherd.server")
_SPARE = 24  # for model files, databases and logs
_PER_CONNECTION = 2  # the socket and an uploaded file
_LEAST = 4


def fit_connections(limits: Limits) -> Limits:
    """Reduce the connections, reserve included, to what RLIMIT_NOFILE allows; its soft limit is
    raised to the hard limit.

    Raises:
      InvalidRequestError: RLIMIT_NOFILE allows fewer than 4 connections.
    """
    if os.name != "posix":
        return limits
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS enforces a lower, unreported limit
            hard = soft
    if hard == resource.RLIM_INFINITY:
        return limits
    n_fit = (hard - _n_open() - _SPARE) // _PER_CONNECTION
    if n_fit < _LEAST:
        raise InvalidRequestError(
            f"RLIMIT_NOFILE must allow at least {_LEAST} connections; got {hard} (raise it with "
            "ulimit -n)"
        )
    if limits.max_connections + limits.reserved_connections <= n_fit:
        return limits
    n_reserve = min(limits.reserved_connections, max(1, n_fit // 4))
    fitting = dataclasses.replace(
        limits, max_connections=n_fit - n_reserve, reserved_connections=n_reserve
    )
    _logger.warning(
        "RLIMIT_NOFILE of %d allows %d connections and a reserve of %d",
        hard,
        fitting.max_connections,
        n_reserve,
    )
    return fitting


def _n_open() -> int:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return len(os.listdir(folder))
