"""/v1/files."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import FileResponse

from llamaherd.server.answers import ERRORS
from llamaherd.server.batches import batches_of
from llamaherd.server.errors import ApiError
from llamaherd.server.file_store import StoredFile
from llamaherd.server.generation import Context, now
from llamaherd.server.uploads import Form, receive_form

router = APIRouter()
_FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
    },
    "required": ["file", "purpose"],
}
_FORM_BODY = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
}
_CONTENT: dict[str, Any] = {
    "description": "Its bytes.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


class FileAnswer(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
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
        filename=file.name,
        purpose=file.purpose,
    )


def tenant_of(request: Request) -> str:
    """Whose files and batches a request may see."""
    tenant: str = request.state.key.tenant
    return tenant


@router.post("/v1/files", response_model=FileAnswer, responses=ERRORS, openapi_extra=_FORM_BODY)
async def upload(request: Request) -> FileAnswer:
    """Keep the input file of a batch."""
    files = batches_of(request).files
    context: Context = request.app.state.context
    with files.draft() as draft:
        form = await receive_form(request, draft, context.settings.limits.most("max_file_mib"))
        name, purpose = _checked(form)
        await asyncio.to_thread(draft.keep)
    file = StoredFile(draft.id, tenant_of(request), name, purpose, draft.n_bytes, now())
    await files.add(file)
    return _answer(file)


def _checked(form: Form) -> tuple[str, str]:
    """A file's name and purpose."""
    unknown = sorted(set(form.fields) - {"purpose"})
    purpose = form.fields.get("purpose")
    if unknown:
        raise ApiError(
            400, f"{unknown[0]} is not supported", param=unknown[0], code="unsupported_field"
        )
    if form.filename is None:
        raise ApiError(400, "file is missing", param="file")
    if purpose != "batch":
        raise ApiError(400, f"purpose must be 'batch'; got {purpose!r}", param="purpose")
    return form.filename, purpose


@router.get("/v1/files", response_model=FilePage, responses=ERRORS)
async def list_files(
    request: Request,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> FilePage:
    """Files by when they came."""
    found = await batches_of(request).files.page(
        tenant_of(request),
        purpose=purpose,
        after=after,
        limit=limit + 1,
        newest_first=order == "desc",
    )
    data = [_answer(file) for file in found[:limit]]
    return FilePage(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(found) > limit,
    )


@router.get("/v1/files/{file_id}", response_model=FileAnswer, responses=ERRORS)
async def file(file_id: str, request: Request) -> FileAnswer:
    """What is known of a file."""
    return _answer(await batches_of(request).files.find(file_id, tenant_of(request)))


@router.get(
    "/v1/files/{file_id}/content",
    response_class=FileResponse,
    responses={**ERRORS, 200: _CONTENT},
)
async def content(file_id: str, request: Request) -> FileResponse:
    """A file's bytes."""
    files = batches_of(request).files
    found = await files.find(file_id, tenant_of(request))
    return FileResponse(files.path(found), media_type="application/octet-stream")


@router.delete("/v1/files/{file_id}", response_model=FileDeleted, responses=ERRORS)
async def delete(file_id: str, request: Request) -> FileDeleted:
    """Remove a file that no batch reads."""
    await batches_of(request).files.delete(file_id, tenant_of(request))
    return FileDeleted(id=file_id)
