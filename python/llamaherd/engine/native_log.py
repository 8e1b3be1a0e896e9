"""llama.cpp's log lines, handed to Python's logging."""

from __future__ import annotations

import logging

from llamaherd import _core

# Quiet unless the application sets logging up: without a handler Python would print warnings.
logging.getLogger("llamaherd").addHandler(logging.NullHandler())
_logger = logging.getLogger("llamaherd.llama_cpp")


def forward() -> None:
    """Hand over what llama.cpp has logged since the last call. Any thread."""
    for level, text in _core.drain_log():
        _logger.log(level, "%s", text)
