"""/v1/files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import FileResponse

from llamaherd.server.api.body_schema import unknown_field
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.batch_api.batch_service import batches_of
from llamaherd.server.batch_api.file_store import StoredFile
from llamaherd.server.batch_api.uploads import Form, receive_form
from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs.context import Context

router = APIRouter()
SHORTEST_S, LONGEST_S = 3600, 30 * 24 * 3600  # of expires_after
_MOST_NAME = 512
_MOST_SHOWN = 64  # characters of a field in a message
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": SHORTEST_S, "maximum": LONGEST_S},
    },
    "required": ["file", "purpose"],
}
_FORM_BODY = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
}
_CONTENT: dict[str, Any] = {
    "description": "Content of the file.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


class FileAnswer(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class FilePage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def _answer(file: StoredFile) -> FileAnswer:
    return FileAnswer(
        id=file.id,
        bytes=file.n_bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.name,
        purpose=file.purpose,
    )


def page_of(found: Sequence[Any], limit: int) -> dict[str, Any]:
    """The fields of a page of at most `limit` items; `found` has one more if pages follow."""
    data = found[:limit]
    ids = [item.id for item in data] or [None]
    return {"data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": len(found) > limit}


def tenant_of(request: Request) -> str:
    """The tenant whose files and batches a request may access."""
    tenant: str = request.state.key.tenant
    return tenant


@router.post("/v1/files", response_model=FileAnswer, responses=ERRORS, openapi_extra=_FORM_BODY)
async def upload(request: Request) -> FileAnswer:
    """Upload the input file of a batch."""
    files = batches_of(request).files
    context: Context = request.app.state.context
    with files.draft(tenant_of(request)) as draft:
        form = await receive_form(request, draft, context.settings.limits)
        name, purpose, expires_after_s = _checked(form, files.longest_s)
        await asyncio.to_thread(draft.keep)
        file = files.describe(draft, name, purpose, expires_after_s)
        await files.add(draft, file)
    return _answer(file)


def _checked(form: Form, longest_s: int) -> tuple[str, str, int | None]:
    """A file's name, its purpose, and seconds until it expires."""
    known = {"purpose", _ANCHOR, _SECONDS}
    unknown = sorted(set(form.fields) - known)
    purpose = form.fields.get("purpose")
    if unknown:
        raise ApiError(
            400,
            f"{unknown[0][:_MOST_SHOWN]} {unknown_field(unknown[0], {*known, 'file'})}",
            param=unknown[0][:_MOST_SHOWN],
            code="unsupported_field",
        )
    if form.filename is None:
        raise ApiError(400, "file is missing", param="file")
    if len(form.filename) > _MOST_NAME:
        message = f"a file name may have at most {_MOST_NAME} characters; got {len(form.filename)}"
        raise ApiError(400, message, param="file")
    if purpose != "batch":
        raise ApiError(400, f"purpose must be 'batch'; got {_shown(purpose)}", param="purpose")
    return form.filename, purpose, _expires_after_s(form, longest_s)


def _expires_after_s(form: Form, longest_s: int) -> int | None:
    anchor, text = (form.fields.get(name) for name in (_ANCHOR, _SECONDS))
    if anchor is None and text is None:
        return None
    if anchor != "created_at":
        raise ApiError(400, f"{_ANCHOR} must be 'created_at'; got {_shown(anchor)}", param=_ANCHOR)
    if text is None or not re.fullmatch("[0-9]{1,9}", text):
        raise ApiError(
            400, f"{_SECONDS} must be a whole number; got {_shown(text)}", param=_SECONDS
        )
    require_expiry(int(text), longest_s, _SECONDS)
    return int(text)


def require_expiry(seconds: int, longest_s: int, param: str) -> None:
    """Raises ApiError if an expiry in seconds is out of range."""
    longest_s = min(LONGEST_S, longest_s)
    if not SHORTEST_S <= seconds <= longest_s:
        rule = f"in [{SHORTEST_S}, {longest_s}]"
        raise ApiError(400, f"{param} must be {rule}; got {seconds}", param=param)


def _shown(text: str | None) -> str:
    return repr(None if text is None else text[:_MOST_SHOWN])


@router.get("/v1/files", response_model=FilePage, responses=ERRORS)
async def list_files(
    request: Request,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> FilePage:
    """List files by time of upload."""
    found = await batches_of(request).files.page(
        tenant_of(request),
        purpose=purpose,
        after=after,
        limit=limit + 1,
        newest_first=order == "desc",
    )
    return FilePage(**page_of([_answer(file) for file in found], limit))


@router.get("/v1/files/{file_id}", response_model=FileAnswer, responses=ERRORS)
async def file(file_id: str, request: Request) -> FileAnswer:
    """Metadata of a file."""
    return _answer(await batches_of(request).files.find(file_id, tenant_of(request)))


@router.get(
    "/v1/files/{file_id}/content",
    response_class=FileResponse,
    responses={**ERRORS, 200: _CONTENT},
)
async def content(file_id: str, request: Request) -> FileResponse:
    """Content of a file."""
    files = batches_of(request).files
    found = await files.find(file_id, tenant_of(request))
    await files.require_whole(found)
    return FileResponse(files.path(found), media_type="application/octet-stream")


@router.delete("/v1/files/{file_id}", response_model=FileDeleted, responses=ERRORS)
async def delete(file_id: str, request: Request) -> FileDeleted:
    """Delete a file that no unfinished batch reads."""
    await batches_of(request).files.delete(file_id, tenant_of(request))
    return FileDeleted(id=file_id)
