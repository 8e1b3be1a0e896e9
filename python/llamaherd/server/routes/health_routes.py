"""/v1/models, /health, /ready and /metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llamaherd.bounded_pool import stuck_pools
from llamaherd.server.api import response_schemas
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.model_pool import trouble_of

router = APIRouter()


async def _model(context: Context, name: str) -> dict[str, Any]:
    card = await context.pool.card(name)
    meta = None
    if card.files:
        file = card.files[0]
        meta = {
            "n_vocab": file.n_vocab,
            "n_ctx_train": file.n_ctx_train,
            "n_embd": file.n_embd,
            "n_params": card.n_params,
            "size": card.n_bytes,
            "ftype": file.weight_type,
            "architecture": file.architecture,
        }
    outputs = card.output_modalities
    return {
        "id": name,
        "object": "model",
        "created": context.pool.created,
        "owned_by": "llamaherd",
        "loaded": name in context.pool.loaded,
        "max_model_len": card.max_len,
        "architecture": {"input_modalities": ["text"], "output_modalities": outputs},
        "meta": meta,
    }


@router.get("/v1/models", response_model=response_schemas.Models, responses=ERRORS)
async def models(request: Request) -> dict[str, Any]:
    """The available models."""
    context: Context = request.app.state.context
    data = [await _model(context, name) for name in context.pool.names]
    return {"object": "list", "data": data}


@router.get("/v1/models/{name:path}", response_model=response_schemas.ModelAnswer, responses=ERRORS)
async def model(name: str, request: Request) -> dict[str, Any]:
    """One available model."""
    context: Context = request.app.state.context
    if name not in context.pool.names:
        raise ApiError(404, f"model {name!r} does not exist", code="model_not_found", param="model")
    return await _model(context, name)


@router.get("/health", response_model=response_schemas.State)
async def health() -> dict[str, str]:
    """Liveness: the process responds."""
    return {"status": "ok"}


@router.get(
    "/ready",
    response_model=response_schemas.State,
    responses={503: {"model": response_schemas.State}},
)
async def ready(request: Request) -> Response:
    """Readiness: requested models are loaded, no engine or thread pool is stuck, and the server is
    not stopping."""
    context: Context = request.app.state.context
    status = _status(context, stopping=request.app.state.draining)
    return JSONResponse({"status": status}, 200 if status == "ok" else 503)


def _status(context: Context, *, stopping: bool) -> str:
    if stopping:
        return "stopping"
    reasons = {name: trouble_of(llm) for name, llm in context.pool.loaded.items()}
    for name, reason in {**reasons, **context.pool.troubles}.items():
        if reason:
            return f"{name}: {reason}"
    for name, stuck_s in stuck_pools().items():
        return f"all threads of pool {name} have been busy for {stuck_s:.0f} s"
    return "ok"


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    context: Context = request.app.state.context
    return Response(context.metrics.text(), media_type="text/plain; version=0.0.4")
