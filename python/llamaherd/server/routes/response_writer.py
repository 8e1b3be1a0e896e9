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
from llamaherd.server.api.request_schemas import StreamOptions
from llamaherd.server.api.sse import DONE, event
from llamaherd.server.jobs.generation_job import GenerationJob

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

    @abstractmethod
    def whole(self, results: Sequence[RequestOutput]) -> dict[str, Any]:
        """The body for the results of the job's streams; `Items` is allowed for arrays."""

    @abstractmethod
    def events(self) -> AsyncIterator[bytes]:
        """Server-sent events for the job's deltas."""


class ChoicesWriter(ResponseWriter):
    """A response with a list of choices; its events are chunks, the usage if requested, and
    [DONE]."""

    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(
        self, job: GenerationJob, id_prefix: str, stream_options: StreamOptions | None
    ) -> None:
        super().__init__(job, id_prefix)
        self._texts = TokenTexts(job.llm.engine)
        self._include_usage = bool(stream_options and stream_options.include_usage)

    @abstractmethod
    def _choices(self, results: Sequence[RequestOutput]) -> Iterator[dict[str, Any]]:
        """The choices of a whole response."""

    @abstractmethod
    def _chunks(self) -> AsyncIterator[bytes]:
        """The events with choices."""

    def whole(self, results: Sequence[RequestOutput]) -> dict[str, Any]:
        choices, usage = Items(self._choices(results)), _usage(result.usage for result in results)
        return {**self._head(self.whole_object), "choices": choices, "usage": usage}

    async def events(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks():
            yield chunk
        if self._include_usage:
            yield self._chunk([], _usage(stream.usage for stream in self._job.streams))
        yield DONE

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {**self._head(self.chunk_object), "choices": choices}
        if self._include_usage:
            chunk["usage"] = usage
        return event(chunk)

    def _head(self, kind: str) -> dict[str, Any]:
        model = self._job.request.model
        return {"id": self._id, "object": kind, "created": self._created, "model": model}


def _usage(of_results: Iterable[Usage]) -> dict[str, Any]:
    usages = list(of_results)
    n_prompt = sum(usage.prompt_tokens for usage in usages)
    n_completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
    }
