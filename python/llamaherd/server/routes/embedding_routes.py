"""/v1/embeddings and /v1/rerank."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from threading import Event
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llamaherd._core import ContextLengthError, InvalidRequestError
from llamaherd.offline.embedder import RerankResult, Text, Vectors
from llamaherd.offline.llm import LLM
from llamaherd.server.api import response_schemas
from llamaherd.server.api.json_stream import Items, json_answer
from llamaherd.server.api.request_schemas import EmbeddingRequest, RerankRequest
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.common.errors import context_length_exceeded
from llamaherd.server.jobs import embedding_jobs
from llamaherd.server.jobs.context import Context
from llamaherd.server.routes.body_route import BodyRoute
from llamaherd.server.routes.model_call import call_model

router = APIRouter(route_class=BodyRoute)


@router.post("/v1/embeddings", response_model=response_schemas.Embeddings, responses=ERRORS)
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """Normalized embeddings of texts."""
    context: Context = request.app.state.context
    texts = _texts_of(body)

    def work(llm: LLM, gone: Event) -> tuple[Vectors, int]:
        embedder = llm.embedder
        if body.dimensions is not None and body.dimensions > embedder.n_embd:
            raise InvalidRequestError(
                f"dimensions must be in [1, {embedder.n_embd}]; got {body.dimensions}"
            )
        try:
            vectors = embedding_jobs.embed(
                embedder, texts, truncate=body.truncate, pooling=body.pooling, gone=gone
            )
        except ContextLengthError as error:
            raise context_length_exceeded(error, "input") from None
        n_tokens = sum(map(embedder.count_tokens, texts))
        return embedding_jobs.shortened(vectors, body.dimensions), n_tokens

    model, (vectors, n_tokens) = await call_model(request, body.model, work)
    request.state.span.prompt(n_tokens, 0)
    data = Items(
        {"object": "embedding", "index": i, "embedding": _encode(vector, body.encoding_format)}
        for i, vector in enumerate(vectors)
    )
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    answer = {"object": "list", "model": model, "data": data, "usage": usage}
    return json_answer(answer, vectors.size, context.pools.answers)


def _texts_of(body: EmbeddingRequest) -> list[Text]:
    given: Any = body.input
    if not given and not isinstance(given, str):
        raise InvalidRequestError("input must hold at least 1 text or token; got 0")
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]
    return list(given)


def _encode(vector: Any, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


@router.post("/v1/rerank", response_model=response_schemas.Ranking, responses=ERRORS)
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Documents by relevance to a query, best first."""
    context: Context = request.app.state.context

    def work(llm: LLM, gone: Event) -> list[RerankResult]:
        embedder = llm.embedder
        try:
            return embedding_jobs.rerank(
                embedder,
                body.query,
                body.documents,
                truncate=body.truncate,
                pooling=body.pooling,
                gone=gone,
            )
        except ContextLengthError as error:
            is_query = embedder.count_tokens(body.query) >= embedder.max_len
            param = "query" if is_query else "documents"
            raise context_length_exceeded(error, param) from None

    model, ranked = await call_model(request, body.model, work)

    def results() -> Iterator[dict[str, Any]]:
        for entry in ranked[: body.top_n]:
            result: dict[str, Any] = {"index": entry.index, "relevance_score": entry.score}
            if body.return_documents:
                result["document"] = {"text": body.documents[entry.index]}
            yield result

    answer = {"model": model, "results": Items(results())}
    n_chars = sum(map(len, body.documents)) if body.return_documents else 0
    return json_answer(answer, len(ranked) + n_chars, context.pools.answers)
