"""What is written of a batch's lines."""

from __future__ import annotations

import json
import uuid
from typing import Any


def answered_line(custom_id: str, request_id: str, status: int, body: Any) -> str:
    """Of a line that was answered, well or not."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _line(custom_id, response, None)


def failed_line(custom_id: str | None, code: str, message: str) -> str:
    """Of a line that was not run."""
    return _line(custom_id, None, {"code": code, "message": message})


def _line(custom_id: str | None, response: Any, error: Any) -> str:
    id_ = f"batch_req_{uuid.uuid4().hex}"
    line = {"id": id_, "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False)
