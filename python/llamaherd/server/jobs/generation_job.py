"""The engine streams of one generation request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from typing import Any

from llamaherd._core import ContextLengthError, Delta, EngineDeadError, FinishReason
from llamaherd.bounded_pool import BoundedPool
from llamaherd.config.params import SamplingParams
from llamaherd.engine.stream import Stream
from llamaherd.offline.llm import LLM
from llamaherd.request.chat import ChatOptions
from llamaherd.request.prompt import Prompt
from llamaherd.request.result import RequestOutput
from llamaherd.server.common.errors import (
    ApiError,
    api_error,
    cancelled,
    context_length_exceeded,
)
from llamaherd.server.jobs.job_request import JobRequest
from llamaherd.server.jobs.prompt_progress import PromptProgress
from llamaherd.server.jobs.stream_merge import merged
from llamaherd.server.jobs.thread_pools import LARGE_BYTES, ThreadPools
from llamaherd.server.observability.metrics import ServerMetrics

_FEW_TOKENS = 1024  # larger results are built outside the event loop
_logger = logging.getLogger("llamaherd.server")


class GenerationJob:
    """The streams of one request on a model that the caller keeps loaded.

    Thread safety:
      For the thread of the event loop only.
    """

    def __init__(
        self,
        request: JobRequest,
        llm: LLM,
        pools: ThreadPools,
        metrics: ServerMetrics,
        *,
        log_prompts: bool,
    ) -> None:
        self.request = request
        self.llm = llm
        self.streams: list[Stream] = []
        self.begin_s = time.monotonic()
        self._pools = pools
        self._metrics = metrics
        self._log_prompts = log_prompts
        self._obeys = False  # the request has a constraint, which may reach a dead end
        self._n_without_token = 0
        self._submitting: Future[None] | None = None
        self._is_cancelled = False

    async def submit(
        self, prompts: Sequence[Prompt], params: SamplingParams, chat: ChatOptions | None = None
    ) -> None:
        """Submit one stream per prompt: all of them, or none.

        Raises:
          ApiError: The job was cancelled, or a prompt does not fit.
        """

        def run() -> None:
            submit, options = self.llm.engine.submit, self.request.scheduling
            for prompt in prompts:
                if self._is_cancelled:
                    break
                try:
                    stream = submit(prompt, params, chat=chat, **options)
                except ContextLengthError as error:
                    field = self.request.prompt_field
                    raise context_length_exceeded(error, field) from None
                self.streams.append(stream)
            if self._is_cancelled:
                self.cancel()  # those submitted since
                raise cancelled()

        self.request.span.params(params)
        try:
            # Chat templates, tokenization and grammars can be slow: not on the event loop.
            self._submitting = self._pool_for(params, chat).submit(run)
            await asyncio.wrap_future(self._submitting)
        except BaseException as error:
            was_cancelled = self._is_cancelled
            self.cancel()
            if was_cancelled and isinstance(error, asyncio.CancelledError):
                raise cancelled() from None
            raise
        if self._log_prompts:
            self._log("prompt", prompts)
        self._obeys = params.rule is not None
        self._n_without_token = len(self.streams)
        self._metrics.waits(self.request.priority, self._n_without_token)

    def _pool_for(self, params: SamplingParams, chat: ChatOptions | None) -> BoundedPool:
        n_bytes = self.request.n_bytes
        if n_bytes < LARGE_BYTES and self._is_slow(params, chat):
            return self._pools.constraints
        return self._pools.of_texts(n_bytes)

    def _is_slow(self, params: SamplingParams, chat: ChatOptions | None) -> bool:
        """Whether a constraint has to be compiled; compiled ones use another pool."""
        if params.rule is not None:
            return not self.llm.engine.is_ready(params)
        return chat is not None and bool(chat.tools)

    def cancel(self) -> None:
        """Cancel all streams and a pending `submit`, which leaves the thread pool's queue."""
        self._is_cancelled = True
        if self._submitting is not None:
            self._submitting.cancel()
        for stream in self.streams:
            stream.cancel()

    def progress(self) -> PromptProgress:
        """Progress of all prompts together, as of a recent step."""
        return PromptProgress.of(self.streams)

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """Deltas of all streams in order of arrival, each with its stream's index.

        Raises:
          ApiError: An output failed or was cancelled.
        """
        metrics, model = self._metrics, self.request.model
        last_ns: dict[tuple[int, int], int] = {}
        async for i, delta in merged(self.streams):
            # These properties create a new object at each access.
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
                self.request.span.output(timing, delta.n_completion, reason)
            self._require_good(reason, delta.error)
            yield i, delta
            if reason is not None:
                metrics.ended(model, timing, delta.n_completion, reason)
                if delta.index == 0:
                    self._prompt(delta.n_prompt, delta.n_cached)

    async def ends(self) -> list[RequestOutput]:
        """Wait for the results of all streams.

        Raises:
          ApiError: As in `deltas`.
        """
        metrics, model = self._metrics, self.request.model
        ended = []
        for stream in self.streams:
            await stream.await_end()
            if stream.usage.prompt_tokens + stream.usage.completion_tokens <= _FEW_TOKENS:
                result = stream.result()
            else:
                result = await self._pools.answers.run(stream.result)
            self._begun(1)
            ended.append(result)
            self._prompt(result.usage.prompt_tokens, result.usage.cached_tokens)
            for choice in result.choices or (result,):
                metrics.first_token(model, choice.timing)
                n_completion, reason = len(choice.token_ids), choice.finish_reason
                metrics.ended(model, choice.timing, n_completion, reason)
                self.request.span.output(choice.timing, n_completion, reason)
        for result in ended:
            for choice in result.choices or (result,):
                self._require_good(choice.finish_reason, choice.error)
        return ended

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of parts of the output."""

        def count() -> int:
            tokenize = self.llm.engine.tokenize
            return sum(len(tokenize(text, add_special=False)) for text in texts if text)

        few = sum(map(len, texts)) < LARGE_BYTES
        return count() if few else await self._pools.answers.run(count)

    def _require_good(self, reason: FinishReason | None, error: str) -> None:
        """Raises ApiError if an output failed or was cancelled."""
        if reason is FinishReason.CANCELLED:
            raise cancelled()
        if reason is FinishReason.ERROR and self.llm.engine.fatal_error:
            raise api_error(EngineDeadError())
        if reason is FinishReason.ERROR:
            raise ApiError(400 if self._obeys else 500, error, code="generation_failed")

    def _prompt(self, n_prompt: int, n_cached: int) -> None:
        self._metrics.prompt(self.request.model, n_prompt, n_cached)
        self.request.span.prompt(n_prompt, n_cached)

    def _begun(self, n: int) -> None:
        self._n_without_token -= n
        self._metrics.waits(self.request.priority, -n)

    def _log(self, what: str, texts: Sequence[Any]) -> None:
        _logger.info(what, extra={"request_id": self.request.request_id, "texts": list(texts)})

    def close(self) -> None:
        """Cancel unfinished streams; record the end of the job in log, span and metrics."""
        if self._log_prompts:
            self._log("answer", [s.result().text if s.finished else None for s in self.streams])
        if not all(stream.finished for stream in self.streams):
            self.request.span.cancelled()
        self.cancel()
        self._begun(self._n_without_token)
