"""/tokenize, /detokenize and /v1/score."""

from __future__ import annotations

from threading import Event

from fastapi import APIRouter, Request
from starlette.responses import Response

from llamaherd._core import ContextLengthError, InvalidRequestError
from llamaherd.offline.llm import LLM
from llamaherd.offline.scoring import Score
from llamaherd.server.api import response_schemas
from llamaherd.server.api.chat_messages import messages_of
from llamaherd.server.api.json_stream import Items, json_answer
from llamaherd.server.api.request_schemas import DetokenizeRequest, ScoreRequest, TokenizeRequest
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.common.errors import ApiError, cancelled, context_length_exceeded
from llamaherd.server.jobs.context import Context
from llamaherd.server.routes.body_route import BodyRoute
from llamaherd.server.routes.model_call import call_model
from llamaherd.server.routes.request_options import cache_salt

router = APIRouter(route_class=BodyRoute)


@router.post("/tokenize", response_model=response_schemas.Tokens, responses=ERRORS)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Token ids of a text, or of messages with the model's chat template."""
    context: Context = request.app.state.context
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError("exactly one of prompt and messages must be set")
    async with context.pool.use(context.model_name(body.model)) as llm:
        engine = llm.engine

        def run() -> list[int]:
            text = body.prompt
            if body.messages is not None:
                text = engine.apply_chat_template(messages_of(body.messages)).text
            assert text is not None
            return engine.tokenize(text, add_special=body.add_special_tokens)

        pool = context.pools.of_texts(len(await request.body()))
        tokens = await pool.run(run)
        max_len = engine.model_info()["max_len"]
    answer = {"tokens": tokens, "count": len(tokens), "max_model_len": max_len}
    return json_answer(answer, len(tokens), context.pools.answers)


@router.post("/detokenize", response_model=response_schemas.TokenText, responses=ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of token ids."""
    context: Context = request.app.state.context
    async with context.pool.use(context.model_name(body.model)) as llm:
        pool = context.pools.of_texts(len(await request.body()))
        text = await pool.run(lambda: llm.engine.detokenize(body.tokens, special=body.special))
    return json_answer({"prompt": text}, len(body.tokens), context.pools.answers)


@router.post("/v1/score", response_model=response_schemas.Scores, responses=ERRORS)
async def score(body: ScoreRequest, request: Request) -> Response:
    """Log-probabilities of continuations of a prompt; the prompt is computed once."""
    context: Context = request.app.state.context
    salt = cache_salt("", request.state.key, context.settings)

    def work(llm: LLM, gone: Event) -> list[Score]:
        (scores,) = llm.score(
            [body.prompt], [body.continuations], cache_salt=salt, progress=False, stop=gone
        )
        if gone.is_set():
            raise cancelled()
        return scores

    model, scores = await call_model(request, body.model, work)
    for i, scored in enumerate(scores):
        if isinstance(scored.exception, ContextLengthError):
            raise context_length_exceeded(scored.exception, "prompt")
        if scored.error:
            raise ApiError(400, f"continuation {i}: {scored.error}", param="continuations")
    results = (
        {
            "index": i,
            "logprob": scored.logprob,
            "token_logprobs": [token.logprob for token in scored.tokens],
            "is_greedy": scored.is_greedy,
        }
        for i, scored in enumerate(scores)
    )
    n_values = sum(len(scored.tokens) for scored in scores) + len(scores)
    answer = {"model": model, "results": Items(results)}
    return json_answer(answer, n_values, context.pools.answers)
