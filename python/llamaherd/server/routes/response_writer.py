"""Writers of generation responses."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from llamaherd._core import FinishReason
from llamaherd.request.result import RequestOutput, Usage
from llamaherd.server.api.json_stream import Items
from llamaherd.server.api.logprobs import TokenTexts
from llamaherd.server.api.request_schemas import ChatRequest, CompletionRequest
from llamaherd.server.api.sse import DONE, event
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.jobs.prompt_progress import PromptProgress

FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.DEADLINE: "deadline",
}


class ResponseWriter(ABC):
    """Writes the response of one job, either whole or as events."""

    def __init__(self, job: GenerationJob, id_prefix: str) -> None:
        self._job = job
        self._id = f"{id_prefix}{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def results(self) -> list[RequestOutput]:
        """Wait for the results of the job's streams. Raises ApiError as `GenerationJob.ends`."""
        return await self._job.ends()

    @abstractmethod
    def whole(self, results: Sequence[RequestOutput]) -> dict[str, Any]:
        """The body for the results of the job's streams; `Items` is allowed for arrays."""

    @abstractmethod
    def events(self) -> AsyncIterator[bytes]:
        """Server-sent events for the job's deltas."""

    def progress(self) -> bytes | None:
        """An event about the prompt's progress, sent while there are no deltas; None: no news."""
        return None


class ChoicesWriter(ResponseWriter):
    """A response with a list of choices; its events are chunks, the usage if requested, and
    [DONE]."""

    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(
        self, job: GenerationJob, id_prefix: str, body: ChatRequest | CompletionRequest
    ) -> None:
        super().__init__(job, id_prefix)
        self._texts = TokenTexts(job.llm.engine)
        self._include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._returns_progress = bool(body.return_progress)
        self._last_progress = PromptProgress()
        self._n_reasoning = 0  # tokens

    @abstractmethod
    def _choices(self, results: Sequence[RequestOutput]) -> Iterator[dict[str, Any]]:
        """The choices of a whole response."""

    @abstractmethod
    def _chunks(self) -> AsyncIterator[bytes]:
        """The events with choices."""

    @abstractmethod
    def _empty_choice(self) -> dict[str, Any]:
        """A choice of an event without news of any choice."""

    def whole(self, results: Sequence[RequestOutput]) -> dict[str, Any]:
        usage = self._usage(result.usage for result in results)
        choices = Items(self._choices(results))
        return {**self._head(self.whole_object), "choices": choices, "usage": usage}

    async def events(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks():
            if self._returns_progress and not self._last_progress.is_done:
                progress = self.progress()
                if progress is not None:
                    yield progress
            yield chunk
        if self._include_usage:
            yield self._chunk([], self._usage(stream.usage for stream in self._job.streams))
        yield DONE

    def progress(self) -> bytes | None:
        progress = self._job.progress()
        if not progress.differs(self._last_progress):
            return None
        self._last_progress = progress
        return self._chunk([self._empty_choice()], prompt_progress=progress.body())

    def _chunk(
        self,
        choices: list[dict[str, Any]],
        usage: dict[str, Any] | None = None,
        **fields: dict[str, Any],
    ) -> bytes:
        chunk = {**self._head(self.chunk_object), "choices": choices, **fields}
        if self._include_usage:
            chunk["usage"] = usage
        return event(chunk)

    def _usage(self, of_results: Iterable[Usage]) -> dict[str, Any]:
        usages = list(of_results)
        n_prompt = sum(usage.prompt_tokens for usage in usages)
        n_completion = sum(usage.completion_tokens for usage in usages)
        n_cached = sum(usage.cached_tokens for usage in usages)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_completion,
            "total_tokens": n_prompt + n_completion,
            "prompt_tokens_details": {"cached_tokens": n_cached},
            "completion_tokens_details": {"reasoning_tokens": self._n_reasoning},
        }

    def _head(self, kind: str) -> dict[str, Any]:
        model = self._job.request.model
        return {"id": self._id, "object": kind, "created": self._created, "model": model}
