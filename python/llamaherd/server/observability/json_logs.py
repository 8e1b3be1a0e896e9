"""Log lines as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

# What every record has; the rest was given as `extra`.
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


# Characters of a field.
_MOST = 8192


class JsonFormatter(logging.Formatter):
    """One JSON object for each line: time, level, logger, message, and what was given as extra.

    Lines are printable ASCII. A field of more than _MOST characters is cut, and says so.
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
    # json leaves one control character of ASCII as it is.
    return json.dumps(value, default=str).replace("\x7f", "\\u007f")


def _bounded(value: Any) -> Any:
    """A value, or if it is large the beginning of its text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _cut(value)
    text = _dump(value)
    return value if len(text) <= _MOST else _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[:_MOST]}... ({len(text)} characters)"


def _cut_front(text: str) -> str:
    """The end of a traceback says most."""
    return text if len(text) <= _MOST else f"({len(text)} characters) ...{text[-_MOST:]}"


def set_up_logs() -> None:
    """What llamaherd and the libraries of its server log, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("llamaherd", "uvicorn", "opentelemetry", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.getLogger("llamaherd.llama_cpp").setLevel(logging.WARNING)
