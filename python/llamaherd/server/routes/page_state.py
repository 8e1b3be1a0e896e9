"""State for the dashboard."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from llamaherd.engine.stream import Stream
from llamaherd.offline.llm import LLM
from llamaherd.server.access.api_keys import ApiKey
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.jobs.model_pool import trouble_of

_MOST_REQUESTS = 200
_NS = 1e-9


def page_state(context: Context, viewer: ApiKey) -> dict[str, Any]:
    """State of models and running requests, as JSON values. Of other tenants' requests it has the
    number only."""
    running = list(_running(context))
    own = [item for item in running if _is_visible(item[0], viewer)]
    n_others = Counter(job.request.model for job, _ in running if not _is_visible(job, viewer))
    return {
        "time_s": time.monotonic(),
        "models": {
            name: {**_model(context, name, llm), "n_other_requests": n_others[name]}
            for name, llm in context.pool.loaded.items()
            if llm.generates
        },
        "requests": [_request(job, stream) for job, stream in own[:_MOST_REQUESTS]],
    }


def _model(context: Context, name: str, llm: LLM) -> dict[str, Any]:
    trouble = trouble_of(llm)
    return {
        "metrics": llm.engine.metrics().as_dict(),
        "health": {"ok": not trouble, "reason": trouble},
        "recent": context.metrics.recent(name),
    }


def _is_visible(job: GenerationJob, viewer: ApiKey) -> bool:
    return viewer.tenant in ("", job.request.tenant)


def _running(context: Context) -> Iterator[tuple[GenerationJob, Stream]]:
    for job in sorted(context.jobs, key=lambda job: job.begin_s):
        for stream in list(job.streams):
            if not stream.finished:
                yield job, stream


def _request(job: GenerationJob, stream: Stream) -> dict[str, Any]:
    usage, timing = stream.usage, stream.timing
    return {
        "id": stream.request_id,
        "model": job.request.model,
        "priority": job.request.priority,
        "tenant": job.request.tenant,
        "n_prompt": usage.prompt_tokens,
        "n_cached": usage.cached_tokens,
        "n_completion": usage.completion_tokens,
        "age_s": time.monotonic() - job.begin_s,
        "spent_s": timing and {part: ns * _NS for part, ns in timing.spent_ns.items()},
    }
