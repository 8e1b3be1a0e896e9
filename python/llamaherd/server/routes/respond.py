"""Runs generation requests, streamed or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response

from llamaherd.config.params import SamplingParams
from llamaherd.request.chat import ChatOptions
from llamaherd.request.prompt import Prompt
from llamaherd.request.result import RequestOutput
from llamaherd.server.api.json_stream import JsonStream, json_answer
from llamaherd.server.api.request_schemas import (
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
)
from llamaherd.server.api.sse import EventStream
from llamaherd.server.common.disconnect import watching
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.jobs.job_request import JobRequest
from llamaherd.server.routes.request_options import scheduling_options
from llamaherd.server.routes.response_writer import ResponseWriter
from llamaherd.server.routes.unenforced_header import unenforced_header

_PROMPT_FIELDS: dict[type, str] = {
    ChatRequest: "messages",
    CompletionRequest: "prompt",
    ResponsesRequest: "input",
}


async def respond(
    request: Request,
    body: ChatRequest | CompletionRequest | ResponsesRequest,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    writer_of: Callable[[GenerationJob], ResponseWriter],
    chat: ChatOptions | None = None,
) -> Response:
    """Run a request's prompts and respond; a client disconnect cancels them.

    Raises:
      ApiError: An output failed, or the server is stopping.
    """
    context: Context = request.app.state.context
    state = request.state
    job_request = JobRequest(
        model=context.model_name(body.model),
        scheduling=scheduling_options(body, state.key, context.settings),
        request_id=state.request_id,
        n_bytes=len(await request.body()),
        span=state.span,
        prompt_field=_PROMPT_FIELDS[type(body)],
    )
    async with AsyncExitStack() as stack:
        job = await stack.enter_async_context(context.job(job_request))
        async with watching(request.receive, job.give_up):
            await job.submit(prompts, params, chat)
        writer = writer_of(job)
        headers = unenforced_header(job.streams)
        if not body.stream:
            async with watching(request.receive, job.cancel):
                results = await job.ends()
            made = json_answer(writer.whole(results), _n_values(results), context.pools.answers)
            made.headers.update(headers)
            if isinstance(made, JsonStream):
                made.when_done(stack.pop_all())
            return made
        events = await EventStream.begin(request, writer.events(), job.cancel)
        events.headers.update(headers)
        events.when_done(stack.pop_all())
        return events


def _n_values(results: Sequence[RequestOutput]) -> int:
    n = 0
    for result in results:
        for choice in result.choices or (result,):
            for logprobs in (choice.logprobs, choice.prompt_logprobs):
                n += len(logprobs) * (1 + (len(logprobs[-1].top) if logprobs else 0))
            n += len(choice.token_ids)
    return n
