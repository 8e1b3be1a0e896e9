"""Errors in OpenAI's format."""

from __future__ import annotations

import errno
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from llamaherd._core import (
    ContextLengthError,
    EngineDeadError,
    InvalidRequestError,
    LlamaHerdError,
    ModelLoadError,
    NotGenerativeError,
    QueueFullError,
)

_logger = logging.getLogger("llamaherd.server")
# The message of an option's rule begins with its name.
_RULE = re.compile(r"([a-z]+(?:_[a-z]+)*) (?:must|requires|cannot) ")
# Options whose field has another name.
_FIELDS = {"tenant": "user", "template_kwargs": "chat_template_kwargs"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


# In characters: messages quote client input.
_MAX_MESSAGE_CHARS, _MAX_PARAM_CHARS, _MAX_VALUE_CHARS = 2000, 200, 60
_SHOULD = "Input should be "  # begins pydantic's messages


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


class ApiError(HTTPException):
    """An error response."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        message = _cut(message, _MAX_MESSAGE_CHARS)
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param and _cut(param, _MAX_PARAM_CHARS)
        self.retry_after_s = retry_after_s
        self.details = details or {}

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status)
        if kind is None:
            kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": {**error, **self.details}}

    def response(self) -> Response:
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return JSONResponse(self.body, self.status, headers)


def cancelled() -> ApiError:
    """The error of a request that was cancelled because the server stops or the client left."""
    return ApiError(503, "the request was cancelled", code="cancelled", retry_after_s=1)


def context_length_exceeded(error: ContextLengthError, param: str | None) -> ApiError:
    """The error response for a prompt that does not fit; clients shorten it and try again."""
    # The names are those of llama-server.
    details = {"n_prompt_tokens": error.n_prompt_tokens, "n_ctx": error.max_len}
    return ApiError(400, str(error), code="context_length_exceeded", param=param, details=details)


def api_error(error: Exception) -> ApiError:
    """The error response for an exception; logs unexpected ones."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        after = error.retry_after_s
        return ApiError(429, str(error), code="queue_full", retry_after_s=after)
    if isinstance(error, ContextLengthError):
        return context_length_exceeded(error, None)
    if isinstance(error, InvalidRequestError | NotGenerativeError | TypeError):
        option = _RULE.match(str(error))
        return ApiError(400, str(error), param=option and _FIELDS.get(option[1], option[1]))
    if isinstance(error, EngineDeadError):  # the cause is in the log only
        message = "the model's engine has stopped; see the server's log"
        return ApiError(503, message, code="engine_dead", retry_after_s=1)
    if isinstance(error, ModelLoadError):  # its message contains file names
        _logger.error("cannot load a model: %s", error)
        message = "the model cannot be loaded; see the server's log"
        return ApiError(503, message, code="model_load_failed", retry_after_s=1)
    if isinstance(error, LlamaHerdError):
        return ApiError(500, str(error))
    if isinstance(error, OSError) and error.errno in _FULL:
        _logger.error("the disk is full", exc_info=error)
        return ApiError(507, "the server's disk is full", code="disk_full")
    _logger.error("unexpected error", exc_info=error)
    return ApiError(500, "internal server error; see the server's log")


# In the location of an error: tag of a union, or the mark of an object's key.
_NO_MEMBER = re.compile(r"<[\w ]+>|\[key\]")


def _param_of(location: Iterable[str | int]) -> str:
    """The name of a field as in OpenAI's errors: messages[0].content."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not _NO_MEMBER.fullmatch(part):
            name += f".{part}" if name else part
    return name


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    return _cut(json.dumps(value[:_MAX_VALUE_CHARS] if isinstance(value, str) else value), 80)


def _validation_error(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    kind, text, location = first["type"], first["msg"], list(first["loc"])
    if kind == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first['ctx']['error']}")
    if kind == "unsupported_field":
        param = _param_of([*location[1:], first["ctx"]["field"]])
        return ApiError(400, f"{param} {text}", param=param, code=kind)
    param = _param_of(location[1:])
    what = param or "the body"
    if kind == "missing":
        message = f"{what} is required"
    elif kind == "wrong_value" or text.startswith(_SHOULD):
        rule = text.removeprefix(_SHOULD).removeprefix("must be ")
        rule = rule.replace("a valid dictionary", "an object").replace("a valid list", "an array")
        message = f"{what} must be {rule}; got {_shown(first['input'])}"
    else:
        message = f"{what}: {text}"
    return ApiError(400, message, param=param or None)


def install_handlers(app: FastAPI) -> None:
    """Convert all errors of routes to ApiError."""

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation_error(error).response()

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = ApiError(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    async def on_any(_: Request, error: Exception) -> Response:
        return api_error(error).response()

    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    for kind in (ApiError, LlamaHerdError, TypeError, OSError):
        app.add_exception_handler(kind, on_any)
    app.add_exception_handler(Exception, on_any)
