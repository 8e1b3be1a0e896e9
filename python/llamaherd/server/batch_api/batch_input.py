"""Reads and validates the lines of a batch's input file."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llamaherd.server.api.body_schema import unknown_field
from llamaherd.server.batch_api.file_store import PASSING
from llamaherd.server.common.limits import Limits

_FIELDS = {"custom_id", "method", "url", "body"}
_MOST_ID = 512
_PIECE = 1 << 16
_SHOWN = 64  # characters of a client's text in a message


@dataclass(frozen=True)
class LineError:
    """Validation error of a line."""

    code: str
    message: str
    param: str | None = None


_NO_JSON = LineError("invalid_json_line", "the line is not a JSON object")


class InputError(Exception):
    """The input file as a whole is unusable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error = LineError(code, message)


@dataclass(frozen=True)
class InputLine:
    """Position of a line in its file."""

    number: int
    begin: int
    n_bytes: int
    custom_id: str | None = None
    crc: int | None = None  # None: unknown
    n_crashes: int = 0  # process crashes while the line was running
    error: LineError | None = None

    @property
    def is_json(self) -> bool:
        return self.error is None or self.error.code not in (_NO_JSON.code, "line_too_long")


def read_lines(path: Path, endpoint: str, limits: Limits) -> Iterator[InputLine]:
    """The non-blank lines of a file, one in memory at a time.

    Args:
      path: The file.
      endpoint: Required `url` of the lines.
      limits: A line longer than max_body_mib is an error of that line.

    Raises:
      InputError: The file cannot be read, or has more lines than max_batch_lines.
    """
    max_bytes, max_lines = limits.most("max_body_mib"), limits.max_batch_lines
    with _opened(path) as file:
        number = begin = 0
        while line := file.readline(max_bytes + 1):
            number += 1
            if number > max_lines:
                message = f"the input file may have at most {max_lines} lines, including blank ones"
                raise InputError("too_many_lines", message)
            n_bytes = len(line) + _skip_rest(file, line)
            if n_bytes > max_bytes:
                message = f"a line may have at most {max_bytes} bytes; got {n_bytes}"
                yield InputLine(number, begin, 0, error=LineError("line_too_long", message))
            elif line.strip():
                entry = _entry_of(line)
                custom_id = None if entry is None else _custom_id_of(entry)
                error = _NO_JSON if entry is None else _broken_rule(entry, endpoint, limits)
                crc = zlib.crc32(line)
                yield InputLine(number, begin, n_bytes, custom_id, crc, error=error)
            begin += n_bytes


def read_body(path: Path, line: InputLine) -> dict[str, Any]:
    """The body of a valid line.

    Raises:
      InputError: The file cannot be read, or the line has changed.
    """
    with _opened(path) as file:
        file.seek(line.begin)
        data = file.read(line.n_bytes)
    if line.crc is not None and zlib.crc32(data) != line.crc:
        raise _changed(line)
    entry = _entry_of(data)
    if entry is None or not isinstance(entry.get("body"), dict):
        raise _changed(line)
    body: dict[str, Any] = entry["body"]
    return body


def require_size(path: Path, n_bytes: int) -> None:
    """Raises InputError if the file is missing or has another size."""
    with _opened(path) as file:
        found = file.seek(0, 2)
    if found != n_bytes:
        message = f"the input file was stored with {n_bytes} bytes but has {found}"
        raise InputError("input_file_changed", message)


def _changed(line: InputLine) -> InputError:
    message = f"line {line.number} of the input file has changed since the batch was validated"
    return InputError("input_file_changed", message)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        if error.errno in PASSING:
            raise
        message = f"the input file cannot be read: {error.strerror}"
        raise InputError("input_file_lost", message) from None


def _skip_rest(file: BinaryIO, line: bytes) -> int:
    n_skipped = 0
    while not line.endswith(b"\n"):
        line = file.readline(_PIECE)
        if not line:
            break
        n_skipped += len(line)
    return n_skipped


def _entry_of(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def _is_deep(entry: dict[str, Any], most: int) -> bool:
    level: list[Any] = [entry]
    for _ in range(most):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def _custom_id_of(entry: dict[str, Any]) -> str | None:
    custom_id = entry.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= _MOST_ID:
        return None
    has_surrogates = any("\ud800" <= c <= "\udfff" for c in custom_id)
    return None if has_surrogates else custom_id


def _broken_rule(entry: dict[str, Any], endpoint: str, limits: Limits) -> LineError | None:
    unknown = sorted(set(entry) - _FIELDS)
    body = entry.get("body")
    if "custom_id" not in entry:
        return LineError("missing_custom_id", "custom_id is missing", "custom_id")
    if _custom_id_of(entry) is None:
        message = f"custom_id must be a string of 1 to {_MOST_ID} characters"
        return LineError("invalid_custom_id", message, "custom_id")
    if unknown:
        rule = unknown_field(unknown[0], _FIELDS)
        return LineError("unsupported_field", f"{unknown[0][:_SHOWN]!a} {rule}")
    if entry.get("method") != "POST":
        return LineError("invalid_method", "method must be POST", "method")
    if entry.get("url") != endpoint:
        return LineError("invalid_url", f"url must be the batch's endpoint, {endpoint}", "url")
    if not isinstance(body, dict):
        return LineError("invalid_body", "body must be an object", "body")
    if body.get("stream") not in (None, False):
        message = "stream must be false in a batch"
        return LineError("stream_not_supported", message, "body.stream")
    if _is_deep(entry, limits.max_json_depth):
        message = f"a line may have at most {limits.max_json_depth} levels of arrays and objects"
        return LineError("json_too_deep", message)
    return None
