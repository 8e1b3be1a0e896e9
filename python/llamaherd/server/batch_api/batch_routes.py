"""/v1/batches."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, BaseModel, Field, StrictInt

from llamaherd.server.api.body_schema import Body
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.batch_api.batch_service import batches_of
from llamaherd.server.batch_api.batch_store import Batch
from llamaherd.server.batch_api.file_routes import (
    LONGEST_S,
    SHORTEST_S,
    page_of,
    require_expiry,
    tenant_of,
)
from llamaherd.server.common.errors import ApiError
from llamaherd.server.routes.body_route import BodyRoute

router = APIRouter(route_class=BodyRoute)
_SECONDS = {"h": 3600, "m": 60}
_Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling",
    "cancelled",
]  # fmt: skip


def _text(text: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("a string must not contain lone surrogates")
    return text


_Text = Annotated[str, AfterValidator(_text)]


class ExpiresAfter(Body):
    anchor: Literal["created_at"]
    seconds: StrictInt = Field(ge=SHORTEST_S, le=LONGEST_S)


class BatchRequest(Body):
    input_file_id: _Text
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: _Text = Field(description="Hours or minutes, such as 24h or 30m.")
    metadata: (
        dict[
            Annotated[_Text, Field(max_length=64)],
            Annotated[_Text, Field(max_length=512)],
        ]
        | None
    ) = Field(None, max_length=16, description="Returned unchanged.")
    output_expires_after: ExpiresAfter | None = Field(
        None, description="Expiry of the output files."
    )


class BatchError(BaseModel):
    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchAnswer(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: _Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str]


class BatchPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _answer(batch: Batch) -> BatchAnswer:
    n = {"total": batch.n_total, "completed": batch.n_completed, "failed": batch.n_failed}
    errors = None if batch.errors is None else {"data": json.loads(batch.errors)}
    metadata = json.loads(batch.metadata)
    # Drops fields of the record that are not in the response.
    return BatchAnswer.model_validate(
        {**vars(batch), "errors": errors, "request_counts": n, "metadata": metadata}
    )


def _seconds(window: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hm])", window)
    if not found:
        raise ApiError(
            400,
            "completion_window must be 1 to 99999 hours or minutes, such as 24h or 30m; got "
            f"{window[:20]!r}",
            param="completion_window",
        )
    return int(found[1]) * _SECONDS[found[2]]


@router.post("/v1/batches", response_model=BatchAnswer, responses=ERRORS)
async def create(body: BatchRequest, request: Request) -> BatchAnswer:
    """Run the lines of a file in the background."""
    batches, tenant = batches_of(request), tenant_of(request)
    window = (body.completion_window, _seconds(body.completion_window))
    file = await batches.files.find(body.input_file_id, tenant)
    if file.purpose != "batch":
        raise ApiError(
            400,
            f"purpose of the input file must be 'batch'; got {file.purpose!r}",
            param="input_file_id",
        )
    expires_after_s = None
    if body.output_expires_after is not None:
        expires_after_s = body.output_expires_after.seconds
        longest_s = batches.files.longest_s
        require_expiry(expires_after_s, longest_s, "output_expires_after.seconds")
    batch = await batches.store.add(
        tenant, body.endpoint, file, window, body.metadata or {}, expires_after_s
    )
    batches.runner.start(batch)
    return _answer(batch)


@router.get("/v1/batches", response_model=BatchPage, responses=ERRORS)
async def list_batches(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchPage:
    """List batches, newest first."""
    found = await batches_of(request).store.page(tenant_of(request), after=after, limit=limit + 1)
    return BatchPage(**page_of([_answer(batch) for batch in found], limit))


@router.get("/v1/batches/{batch_id}", response_model=BatchAnswer, responses=ERRORS)
async def retrieve(batch_id: str, request: Request) -> BatchAnswer:
    """Status of a batch."""
    return _answer(await batches_of(request).store.find(batch_id, tenant_of(request)))


@router.post("/v1/batches/{batch_id}/cancel", response_model=BatchAnswer, responses=ERRORS)
async def cancel(batch_id: str, request: Request) -> BatchAnswer:
    """Cancel a batch; completed lines are written to its output file."""
    batches = batches_of(request)
    batch = await batches.store.find(batch_id, tenant_of(request))
    batch = await batches.store.move(batch, ("validating", "in_progress"), "cancelling")
    if batch.status not in ("cancelling", "cancelled"):
        raise ApiError(400, f"only a running batch can be cancelled; status is {batch.status}")
    batches.runner.halt(batch)
    return _answer(batch)
