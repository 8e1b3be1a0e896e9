"""From a request for text to its answer, whole or in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from llamaherd.config.params import SamplingParams
from llamaherd.request.chat import ChatOptions
from llamaherd.request.prompt import Prompt
from llamaherd.request.result import RequestOutput
from llamaherd.server.api.json_stream import JsonStream, json_answer
from llamaherd.server.api.request_schemas import SchedulingOptions
from llamaherd.server.api.sse import EventStream
from llamaherd.server.common.disconnect import watching
from llamaherd.server.jobs.generation import Context, Job


class ResponseWriter(Protocol):
    """How an endpoint writes what has come."""

    def whole(self, results: Sequence[RequestOutput]) -> dict[str, Any]:
        """The answer; `Items` may stand for arrays."""

    def events(self) -> AsyncIterator[bytes]: ...


async def respond(
    request: Request,
    body: SchedulingOptions,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    answer_of: Callable[[Job], ResponseWriter],
    *,
    stream: bool,
    chat: ChatOptions | None = None,
) -> Response:
    """Run a request's prompts and answer it; a client that goes away ends them.

    Raises:
      ApiError: An output ended with an error, or because the server stops.
    """
    context: Context = request.app.state.context
    async with AsyncExitStack() as stack:
        job = await Job.begin(context, stack, request, body)
        async with watching(request.receive, job.give_up):
            await job.submit(prompts, params, chat)
        answer = answer_of(job)
        if not stream:
            async with watching(request.receive, job.cancel):
                results = await job.ends()
            made = json_answer(answer.whole(results), _n_values(results), context.pools.answers)
            if isinstance(made, JsonStream):
                made.when_done(stack.pop_all())
            return made
        events = await EventStream.begin(request, answer.events(), job.cancel)
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
