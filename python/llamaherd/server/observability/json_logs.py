"""JSON logs."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

# Attributes of every record; others come from `extra`.
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


# Maximum characters of a field.
_MOST = 8192


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields of `extra`.

    Lines are printable ASCII. A field of more than _MOST characters is cut and marked with its
    length.
    """

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        line |= {key: _bounded(value) for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["exception"] = _cut_front(self.formatException(record.exc_info))
        return _dump(line)


def _dump(value: Any) -> str:
    # json does not escape one control character of ASCII.
    return json.dumps(value, default=str).replace("\x7f", "\\u007f")


def _bounded(value: Any) -> Any:
    """A value, or the beginning of its text if it is large."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _cut(value)
    text = _dump(value)
    return value if len(text) <= _MOST else _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[:_MOST]}... ({len(text)} characters)"


def _cut_front(text: str) -> str:
    """Keeps the end: it is the informative part of a traceback."""
    return text if len(text) <= _MOST else f"({len(text)} characters) ...{text[-_MOST:]}"


def set_up_logs() -> None:
    """Log to stderr as JSON lines: llamaherd and the libraries of its server."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("llamaherd", "uvicorn", "opentelemetry", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.getLogger("llamaherd.llama_cpp").setLevel(logging.WARNING)
