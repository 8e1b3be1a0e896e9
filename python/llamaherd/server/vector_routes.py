"""/v1/embeddings and /v1/rerank."""

from __future__ import annotations

import base64
from threading import Event
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from llamaherd._core import InvalidRequestError
from llamaherd.server import answers
from llamaherd.server import vectors as vectors_of
from llamaherd.server.answers import ERRORS
from llamaherd.server.bodies import BodyRoute
from llamaherd.server.generation import Context, body_model
from llamaherd.server.schemas import EmbeddingRequest, RerankRequest
from llamaherd.server.sse import watching

router = APIRouter(route_class=BodyRoute)


@router.post("/v1/embeddings", response_model=answers.Embeddings, responses=ERRORS)
async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
    """Vectors of texts, of length 1."""
    context: Context = request.app.state.context
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts:
        raise InvalidRequestError("input must hold at least 1 text; got 0")
    model = body_model(body, context)
    request.state.span.model(model)
    async with context.pool.use(model) as llm:
        embedder = await context.run_slow(lambda: llm.embedder)
        if body.dimensions is not None and body.dimensions > embedder.n_embd:
            raise InvalidRequestError(
                f"dimensions must be in [1, {embedder.n_embd}]; got {body.dimensions}"
            )
        gone = Event()
        async with watching(request.receive, gone.set):
            vectors = await context.run_slow(
                lambda: vectors_of.embed(embedder, texts, truncate=body.truncate, gone=gone)
            )
        n_tokens = await context.run_slow(lambda: sum(map(embedder.count_tokens, texts)))
    request.state.span.prompt(n_tokens, 0)
    vectors = vectors[:, : body.dimensions]
    if body.dimensions is not None:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)
    data = [
        {"object": "embedding", "index": i, "embedding": _encode(vector, body.encoding_format)}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "model": model, "data": data, "usage": usage}


def _encode(vector: Any, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


@router.post("/v1/rerank", response_model=answers.Ranking, responses=ERRORS)
async def rerank(body: RerankRequest, request: Request) -> dict[str, Any]:
    """Documents by how well they answer a query, the best first."""
    context: Context = request.app.state.context
    model = body_model(body, context)
    request.state.span.model(model)
    async with context.pool.use(model) as llm:
        embedder = await context.run_slow(lambda: llm.embedder)
        gone = Event()
        async with watching(request.receive, gone.set):
            ranked = await context.run_slow(
                lambda: vectors_of.rerank(
                    embedder, body.query, body.documents, truncate=body.truncate, gone=gone
                )
            )
    results: list[dict[str, Any]] = []
    for entry in ranked[: body.top_n]:
        result: dict[str, Any] = {"index": entry.index, "relevance_score": entry.score}
        if body.return_documents:
            result["document"] = {"text": body.documents[entry.index]}
        results.append(result)
    return {"model": model, "results": results}
