"""Shared state of all routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from llamaherd.server.api.body_reader import BodyReader
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.jobs.job_request import JobRequest
from llamaherd.server.jobs.model_pool import ModelPool
from llamaherd.server.jobs.thread_pools import ThreadPools
from llamaherd.server.observability.metrics import ServerMetrics


@dataclass(frozen=True)
class Context:
    """Settings, models, metrics, threads and running jobs.

    Thread safety:
      For the thread of the event loop only.
    """

    settings: ServerSettings
    pool: ModelPool
    metrics: ServerMetrics
    jobs: set[GenerationJob] = field(default_factory=set)  # running
    reader: BodyReader = field(default_factory=BodyReader)
    pools: ThreadPools = field(default_factory=ThreadPools)

    def model_name(self, given: str | None) -> str:
        """The requested model, or the server's first."""
        return given or self.pool.names[0]

    @asynccontextmanager
    async def job(self, request: JobRequest) -> AsyncIterator[GenerationJob]:
        """A job; its model stays loaded until the job is closed at the end of the `with`.

        Raises:
          ApiError: The model does not exist, or cannot be loaded.
        """
        request.span.model(request.model)
        async with self.pool.use(request.model) as llm:
            log_prompts = self.settings.log_prompts
            job = GenerationJob(request, llm, self.pools, self.metrics, log_prompts=log_prompts)
            self.jobs.add(job)
            try:
                yield job
            finally:
                self.jobs.discard(job)
                job.close()
