"""Forwards llama.cpp's log lines to Python's logging."""

from __future__ import annotations

import logging

from llamaherd import _core

# Without a handler Python would print warnings although the application has not configured logging.
logging.getLogger("llamaherd").addHandler(logging.NullHandler())
_logger = logging.getLogger("llamaherd.llama_cpp")


def forward() -> None:
    """Log the lines that llama.cpp has written since the last call. Any thread."""
    for level, text in _core.drain_log():
        _logger.log(level, "%s", text)
