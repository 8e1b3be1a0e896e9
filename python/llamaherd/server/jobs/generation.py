"""From a request to the engine's streams, and from their ends to what a client is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from llamaherd._core import Delta, EngineDeadError, FinishReason
from llamaherd.bounded_pool import BoundedPool
from llamaherd.config.params import SamplingParams
from llamaherd.engine.stream import Stream
from llamaherd.offline.llm import LLM
from llamaherd.request.chat import ChatOptions
from llamaherd.request.prompt import Prompt
from llamaherd.request.result import RequestOutput, Usage
from llamaherd.server.access.api_keys import ApiKey
from llamaherd.server.api.body_reader import BodyReader
from llamaherd.server.api.request_schemas import (
    SAMPLING_FIELDS,
    JsonObjectFormat,
    JsonSchemaFormat,
    JsonSchemaText,
    ResponseFormat,
    Sampling,
    SchedulingOptions,
)
from llamaherd.server.common.errors import ApiError, api_error, cancelled
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.jobs.model_pool import ModelPool
from llamaherd.server.observability.metrics import ServerMetrics
from llamaherd.server.observability.spans import Span

T = TypeVar("T")
# Bodies from which tokenizing what they hold may take some tenths of a second.
_LARGE_BYTES = 1 << 16
# Tokens of results that are built on the event loop at most.
_FEW_TOKENS = 1024
_logger = logging.getLogger("llamaherd.server")
FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.DEADLINE: "deadline",
}


class Pools:
    """Threads for what must not run on the event loop. Each kind of work has its own, so that it
    waits for no other; work beyond their bounds is refused with PoolFullError."""

    def __init__(self) -> None:
        self.texts = BoundedPool("texts", 4, 2048)
        self.constraints = BoundedPool("constrained requests", 8, 512)
        self.large_texts = BoundedPool("large texts", 2, 64)
        # Their threads wait for models most of the time.
        self.compute = BoundedPool("embeddings and scores", 16, 256, stuck_after_s=300)
        self.answers = BoundedPool("large answers", 2, 1024)

    def of_texts(self, n_bytes: int) -> BoundedPool:
        """Where texts of a body of so many bytes are tokenized."""
        return self.texts if n_bytes < _LARGE_BYTES else self.large_texts


@dataclass(frozen=True)
class Context:
    """What every route has at hand."""

    settings: ServerSettings
    pool: ModelPool
    metrics: ServerMetrics
    jobs: set[Job] = field(default_factory=set)  # those that run
    reader: BodyReader = field(default_factory=BodyReader)
    pools: Pools = field(default_factory=Pools)


def sampling_options(body: Sampling) -> dict[str, Any]:
    """The options of SamplingParams that a request sets."""
    options = {}
    for name in SAMPLING_FIELDS:
        value = getattr(body, name)
        if value is not None:
            options[name] = value
    return options


def format_options(
    response_format: ResponseFormat | JsonSchemaText | None,
) -> dict[str, Any]:
    """The same of a response format."""
    if isinstance(response_format, JsonObjectFormat):
        return {"json_object": True}
    if isinstance(response_format, JsonSchemaFormat):
        return {"json_schema": response_format.json_schema.json_schema}
    if isinstance(response_format, JsonSchemaText):
        return {"json_schema": response_format.json_schema}
    return {}


def scheduling_options(
    body: SchedulingOptions, key: ApiKey, settings: ServerSettings
) -> dict[str, Any]:
    """Options of BatchEngine.submit: a key's bounds win over what the request asks for."""
    priority = key.priority if body.priority is None else max(body.priority, key.priority)
    deadlines = [s for s in (body.deadline_s, settings.request_timeout_s) if s is not None]
    return {
        "priority": priority,
        "tenant": key.tenant or body.user or "",
        "deadline_s": min(deadlines) if deadlines else None,
        "ttft_deadline_s": body.ttft_deadline_s,
        "cache": body.cache,
        "cache_salt": cache_salt(body.cache_salt, key, settings),
    }


def cache_salt(salt: str, key: ApiKey, settings: ServerSettings) -> str:
    """The salt of a request: different for different tenants, whatever salts they choose."""
    if not key.tenant or settings.shared_cache:
        return salt
    return f"{len(key.tenant)}:{key.tenant}{salt}"


class Job:
    """The work of one request: a model that stays in memory meanwhile, and its streams."""

    def __init__(
        self,
        context: Context,
        model: str,
        llm: LLM,
        scheduling: dict[str, Any],
        request_id: str,
        span: Span,
        n_bytes: int,
    ) -> None:
        self.model = model
        self.llm = llm
        self.streams: list[Stream] = []
        self.begin_s = time.monotonic()
        self._context = context
        self._scheduling = scheduling
        self._request_id = request_id
        self._span = span
        self._n_bytes = n_bytes
        self._obeys = False  # a rule of the request's own, which may have no way on
        self._n_without_token = 0
        self._submitting: Future[None] | None = None
        self._is_given_up = False

    @classmethod
    async def begin(
        cls, context: Context, stack: AsyncExitStack, request: Request, body: SchedulingOptions
    ) -> Job:
        """A job on the model that a request names; the stack gives it back.

        Raises:
          ApiError: There is no such model, or no room for it.
        """
        model = body_model(body, context)
        request.state.span.model(model)
        llm = await stack.enter_async_context(context.pool.use(model))
        key: ApiKey = request.state.key
        scheduling = scheduling_options(body, key, context.settings)
        state = request.state
        n_bytes = len(await request.body())
        job = cls(context, model, llm, scheduling, state.request_id, state.span, n_bytes)
        context.jobs.add(job)
        stack.callback(job._leave)
        return job

    async def submit(
        self, prompts: Sequence[Prompt], params: SamplingParams, chat: ChatOptions | None = None
    ) -> None:
        """One stream for each prompt: all of them, or none.

        Raises:
          ApiError: It was given up.
        """

        def run() -> None:
            for prompt in prompts:
                if self._is_given_up:
                    raise cancelled()
                stream = self.llm.engine.submit(prompt, params, chat=chat, **self._scheduling)
                self.streams.append(stream)

        self._span.params(params)
        try:
            # Templates, texts and grammars can take long: not on the event loop.
            self._submitting = self._pool(params, chat).submit(run)
            await asyncio.wrap_future(self._submitting)
        except BaseException as error:
            self.cancel()
            if self._is_given_up and isinstance(error, asyncio.CancelledError):
                raise cancelled() from None
            raise
        if self._context.settings.log_prompts:
            self._log("prompt", prompts)
        self._obeys = params.rule is not None
        self._n_without_token = len(self.streams)
        self._context.metrics.waits(self._scheduling["priority"], self._n_without_token)

    def give_up(self) -> None:
        """End `submit`: nobody waits for it any more, so it keeps no place before others."""
        self._is_given_up = True
        if self._submitting is not None:
            self._submitting.cancel()

    def _pool(self, params: SamplingParams, chat: ChatOptions | None) -> BoundedPool:
        pools = self._context.pools
        if self._n_bytes >= _LARGE_BYTES:
            return pools.large_texts
        if params.rule is not None:
            # What was made ready before waits for no rule that is not.
            return pools.texts if self.llm.engine.is_ready(params) else pools.constraints
        return pools.constraints if chat is not None and chat.tools else pools.texts

    @property
    def priority(self) -> int:
        priority: int = self._scheduling["priority"]
        return priority

    @property
    def tenant(self) -> str:
        tenant: str = self._scheduling["tenant"]
        return tenant

    def cancel(self) -> None:
        for stream in self.streams:
            stream.cancel()

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Deltas of all streams as they come, each with its stream's index.

        Raises:
          ApiError: An output ended with an error, or because it was cancelled.
        """
        metrics, model = self._context.metrics, self.model
        last_ns: dict[tuple[int, int], int] = {}
        async for i, delta in merged(self.streams):
            # Each of these is made anew when it is asked for.
            timing, n_new, reason = delta.timing, len(delta.token_ids), delta.finish_reason
            before = last_ns.get((i, delta.index))
            if before is None:
                self._begun(1 if delta.index == 0 else 0)
            elif n_new:
                metrics.token_gap(model, (timing.last_ns - before) * 1e-9)
            last_ns[i, delta.index] = timing.last_ns
            if n_new and n_new == delta.n_completion:
                metrics.first_token(model, timing)
            if reason is not None:
                self._span.output(timing, delta.n_completion, reason)
            self._require_good(reason, delta.error)
            yield i, delta
            if reason is not None:
                metrics.ended(model, timing, delta.n_completion, reason)
                if delta.index == 0:
                    self._prompt(delta.n_prompt, delta.n_cached)

    async def ends(self) -> list[RequestOutput]:
        """How all streams ended.

        Raises:
          ApiError: As `deltas`.
        """
        metrics, model = self._context.metrics, self.model
        ended = []
        for stream in self.streams:
            await stream.await_end()
            if stream.usage.prompt_tokens + stream.usage.completion_tokens <= _FEW_TOKENS:
                result = stream.result()
            else:
                result = await self._context.pools.answers.run(stream.result)
            self._begun(1)
            ended.append(result)
            self._prompt(result.usage.prompt_tokens, result.usage.cached_tokens)
            for choice in result.choices or (result,):
                metrics.first_token(model, choice.timing)
                n_completion, reason = len(choice.token_ids), choice.finish_reason
                metrics.ended(model, choice.timing, n_completion, reason)
                self._span.output(choice.timing, n_completion, reason)
        for result in ended:
            for choice in result.choices or (result,):
                self._require_good(choice.finish_reason, choice.error)
        return ended

    def _require_good(self, reason: FinishReason | None, error: str) -> None:
        """Raises ApiError if an output ended in a way that is no answer."""
        if reason is FinishReason.CANCELLED:
            raise cancelled()
        if reason is FinishReason.ERROR and self.llm.engine.fatal_error:
            raise api_error(EngineDeadError())
        if reason is FinishReason.ERROR:
            raise ApiError(400 if self._obeys else 500, error, code="generation_failed")

    def _prompt(self, n_prompt: int, n_cached: int) -> None:
        self._context.metrics.prompt(self.model, n_prompt, n_cached)
        self._span.prompt(n_prompt, n_cached)

    def _begun(self, n: int) -> None:
        self._n_without_token -= n
        self._context.metrics.waits(self._scheduling["priority"], -n)

    def _log(self, what: str, texts: Sequence[Any]) -> None:
        _logger.info(what, extra={"request_id": self._request_id, "texts": list(texts)})

    def _leave(self) -> None:
        self._context.jobs.discard(self)
        if self._context.settings.log_prompts:
            self._log("answer", [s.result().text if s.finished else None for s in self.streams])
        if not all(stream.finished for stream in self.streams):
            self._span.cancelled()
        self.cancel()
        self._begun(self._n_without_token)


def body_model(body: Any, context: Context) -> str:
    """The model that a request names, or the server's first."""
    return body.model or context.pool.names[0]


async def merged(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Delta]]:
    """Deltas of all streams as they come, each with its stream's index."""
    if len(streams) == 1:
        async for delta in streams[0]:
            yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, Delta] | None] = asyncio.Queue()

    async def forward(i: int, stream: Stream) -> None:
        async for delta in stream:
            queue.put_nowait((i, delta))
        queue.put_nowait(None)

    tasks = [asyncio.ensure_future(forward(i, stream)) for i, stream in enumerate(streams)]
    try:
        n_open = len(tasks)
        while n_open > 0:
            item = await queue.get()
            if item is None:
                n_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()


def usage_of(usages: Sequence[Usage]) -> dict[str, Any]:
    n_prompt = sum(usage.prompt_tokens for usage in usages)
    n_completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
    }


def now() -> int:
    """Seconds since 1970, as OpenAI's API has them."""
    return int(time.time())
