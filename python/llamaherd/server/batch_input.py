"""The lines of a batch's input file, and what they must be like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_FIELDS = {"custom_id", "method", "url", "body"}
_MOST_ID = 512
_PIECE = 1 << 16


@dataclass(frozen=True)
class LineError:
    """Which rule a line breaks."""

    code: str
    message: str
    param: str | None = None


_NO_JSON = LineError("invalid_json_line", "the line is not a JSON object")


@dataclass(frozen=True)
class InputLine:
    """Where a line lies in its file."""

    number: int
    begin: int
    n_bytes: int
    custom_id: str | None = None
    error: LineError | None = None

    @property
    def is_json(self) -> bool:
        return self.error is None or self.error.code not in (_NO_JSON.code, "line_too_long")


def read_lines(path: Path, endpoint: str, max_bytes: int) -> Iterator[InputLine]:
    """The lines of a file that hold anything, one in memory at a time.

    Args:
      path: The file.
      endpoint: What they must ask for.
      max_bytes: Size of a line; a longer one is passed over.
    """
    with open(path, "rb") as file:
        number = begin = 0
        while line := file.readline(max_bytes + 1):
            number += 1
            n_bytes = len(line) + _skip_rest(file, line)
            if n_bytes > max_bytes:
                message = f"a line may have {max_bytes} bytes; got {n_bytes}"
                yield InputLine(number, begin, 0, error=LineError("line_too_long", message))
            elif line.strip():
                entry = _entry_of(line)
                custom_id = None if entry is None else _custom_id_of(entry)
                error = _NO_JSON if entry is None else _broken_rule(entry, endpoint)
                yield InputLine(number, begin, n_bytes, custom_id, error)
            begin += n_bytes


def read_body(path: Path, begin: int, n_bytes: int) -> dict[str, Any]:
    """The body of a line that breaks no rule."""
    with open(path, "rb") as file:
        file.seek(begin)
        entry = _entry_of(file.read(n_bytes))
    assert entry is not None
    body: dict[str, Any] = entry["body"]
    return body


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
        entry = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _custom_id_of(entry: dict[str, Any]) -> str | None:
    custom_id = entry.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= _MOST_ID:
        return None
    has_surrogates = any("\ud800" <= c <= "\udfff" for c in custom_id)
    return None if has_surrogates else custom_id


def _broken_rule(entry: dict[str, Any], endpoint: str) -> LineError | None:
    unknown = sorted(set(entry) - _FIELDS)
    body = entry.get("body")
    if "custom_id" not in entry:
        return LineError("missing_custom_id", "custom_id is missing", "custom_id")
    if _custom_id_of(entry) is None:
        message = f"custom_id must be a text of 1 to {_MOST_ID} characters"
        return LineError("invalid_custom_id", message, "custom_id")
    if unknown:
        return LineError("unsupported_field", f"{unknown[0]!a} is not supported")
    if entry.get("method") != "POST":
        return LineError("invalid_method", "method must be POST", "method")
    if entry.get("url") != endpoint:
        return LineError("invalid_url", f"url must be the batch's endpoint, {endpoint}", "url")
    if not isinstance(body, dict):
        return LineError("invalid_body", "body must be an object", "body")
    if body.get("stream") not in (None, False):
        message = "the answers of a batch are not streamed"
        return LineError("stream_not_supported", message, "body.stream")
    return None
