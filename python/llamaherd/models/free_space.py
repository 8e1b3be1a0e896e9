"""Detection of disk-full errors."""

from __future__ import annotations

import errno


def is_full(error: BaseException) -> bool:
    """Whether the error means that a disk or quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
