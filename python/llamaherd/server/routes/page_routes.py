"""The chat page at /, the dashboard, and their static files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs.context import Context
from llamaherd.server.routes.page_state import page_state

router = APIRouter(include_in_schema=False)

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Only the server's own files run or are shown, whatever text a model generates.
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'"
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class _File:
    """A static file."""

    content: bytes
    media_type: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    """All static files, by name."""
    files = {}
    for entry in resources.files("llamaherd.server").joinpath("pages").iterdir():
        media_type = _TYPES.get(entry.name.rpartition(".")[2])
        if media_type:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            files[entry.name] = _File(content, media_type, etag)
    return files


def _answer(request: Request, name: str) -> Response:
    file = _files().get(name)
    if file is None:
        raise ApiError(404, f"page {name!r} does not exist")
    headers = {**_HEADERS, "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


@router.get("/")
async def chat(request: Request) -> Response:
    """The chat page."""
    return _answer(request, "chat.html")


@router.get("/dashboard")
async def dashboard(request: Request) -> Response:
    """The live dashboard."""
    return _answer(request, "dashboard.html")


@router.get("/pages/state")
async def state(request: Request) -> Response:
    """State for the dashboard."""
    context: Context = request.app.state.context
    headers = {**_HEADERS, "cache-control": "no-store"}
    return JSONResponse(page_state(context, request.state.key), headers=headers)


@router.get("/pages/{name}")
async def page_file(name: str, request: Request) -> Response:
    """A script, a style sheet or an image."""
    return _answer(request, name)
