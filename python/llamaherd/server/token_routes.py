"""/tokenize, /detokenize and /v1/score."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

from fastapi import APIRouter, Request

from llamaherd._core import InvalidRequestError
from llamaherd.server import answers
from llamaherd.server.answers import ERRORS
from llamaherd.server.bodies import BodyRoute
from llamaherd.server.chat_routes import messages_of
from llamaherd.server.errors import ApiError, cancelled
from llamaherd.server.generation import Context, body_model
from llamaherd.server.schemas import DetokenizeRequest, ScoreRequest, TokenizeRequest
from llamaherd.server.sse import watching

router = APIRouter(route_class=BodyRoute)


@router.post("/tokenize", response_model=answers.Tokens, responses=ERRORS)
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """Token ids of a text, or of messages in the model's chat template."""
    context: Context = request.app.state.context
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError("one of prompt, messages must be set")
    async with context.pool.use(body_model(body, context)) as llm:
        engine = llm.engine

        def run() -> list[int]:
            text = body.prompt
            if body.messages is not None:
                text = engine.apply_chat_template(messages_of(body.messages)).text
            assert text is not None
            return engine.tokenize(text, add_special=body.add_special_tokens)

        tokens = await asyncio.to_thread(run)
        max_len = engine.model_info()["max_len"]
    return {"tokens": tokens, "count": len(tokens), "max_model_len": max_len}


@router.post("/detokenize", response_model=answers.TokenText, responses=ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, Any]:
    """The text of token ids."""
    context: Context = request.app.state.context
    async with context.pool.use(body_model(body, context)) as llm:
        text = await asyncio.to_thread(llm.engine.detokenize, body.tokens, special=body.special)
    return {"prompt": text}


@router.post("/v1/score", response_model=answers.Scores, responses=ERRORS)
async def score(body: ScoreRequest, request: Request) -> dict[str, Any]:
    """How likely continuations of a prompt are; the prompt is computed once."""
    context: Context = request.app.state.context
    model = body_model(body, context)
    request.state.span.model(model)
    async with context.pool.use(model) as llm:
        gone = Event()
        async with watching(request.receive, gone.set):
            (scores,) = await context.run_slow(
                lambda: llm.score([body.prompt], [body.continuations], progress=False, stop=gone)
            )
        if gone.is_set():
            raise cancelled()
    results = []
    for i, scored in enumerate(scores):
        if scored.error:
            raise ApiError(400, f"continuation {i}: {scored.error}", param="continuations")
        results.append(
            {
                "index": i,
                "logprob": scored.logprob,
                "token_logprobs": [token.logprob for token in scored.tokens],
                "is_greedy": scored.is_greedy,
            }
        )
    return {"model": model, "results": results}
