"""Formats result lines of a batch."""

from __future__ import annotations

import json
import uuid

_BREAKS = (
    ("\n", " "),
    ("\r", " "),
    *((c, f"\\u{ord(c):04x}") for c in "\x85\u2028\u2029"),
)


def answered_line(custom_id: str, request_id: str, status: int, body: bytes) -> str:
    """Result of a line with an HTTP response of any status; `body` is JSON."""
    # Not parsed and encoded again: a body may have many MiB.
    text = body.decode()
    response = (
        f'{{"status_code": {status}, "request_id": {json.dumps(request_id)}, "body": {text}}}'
    )
    return _line(custom_id, response, "null")


def failed_line(custom_id: str | None, code: str, message: str) -> str:
    """Result of a line that was not run."""
    error = json.dumps({"code": code, "message": message}, ensure_ascii=False)
    return _line(custom_id, "null", error)


def _line(custom_id: str | None, response: str, error: str) -> str:
    """`response` and `error` are JSON texts."""
    id_, name = f"batch_req_{uuid.uuid4().hex}", json.dumps(custom_id, ensure_ascii=False)
    line = f'{{"id": "{id_}", "custom_id": {name}, "response": {response}, "error": {error}}}'
    # In JSON, \n and \r occur between values only, and the other line breaks of str.splitlines() in
    # # strings only.
    for old, new in _BREAKS:
        line = line.replace(old, new)
    return line
