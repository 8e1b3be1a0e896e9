"""What is written of a batch's lines."""

from __future__ import annotations

import json
import uuid


def answered_line(custom_id: str, request_id: str, status: int, body: bytes) -> str:
    """Of a line that was answered, well or not; `body` is JSON."""
    # Not parsed and written again: a body may have many MiB. JSON has line breaks between its
    # values only.
    text = body.decode().replace("\n", " ").replace("\r", " ")
    response = (
        f'{{"status_code": {status}, "request_id": {json.dumps(request_id)}, "body": {text}}}'
    )
    return _line(custom_id, response, "null")


def failed_line(custom_id: str | None, code: str, message: str) -> str:
    """Of a line that was not run."""
    error = json.dumps({"code": code, "message": message}, ensure_ascii=False)
    return _line(custom_id, "null", error)


def _line(custom_id: str | None, response: str, error: str) -> str:
    """`response` and `error` are JSON."""
    id_, name = f"batch_req_{uuid.uuid4().hex}", json.dumps(custom_id, ensure_ascii=False)
    return f'{{"id": "{id_}", "custom_id": {name}, "response": {response}, "error": {error}}}'
