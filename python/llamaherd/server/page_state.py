"""What the dashboard shows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

from llamaherd.llm import LLM
from llamaherd.server.generation import Context, Job
from llamaherd.server.keys import ApiKey
from llamaherd.stream import Stream

_MOST_REQUESTS = 200
_NS = 1e-9


def page_state(context: Context, viewer: ApiKey) -> dict[str, Any]:
    """How all models stand and what runs, as JSON has it. Tenants see each other's requests, but
    neither whose they are nor what of them was cached."""
    requests = _requests(context, viewer)
    return {
        "time_s": time.monotonic(),
        "models": {
            name: _model(context, name, llm)
            for name, llm in context.pool.loaded.items()
            if llm.generates
        },
        "requests": list(itertools.islice(requests, _MOST_REQUESTS)),
    }


def _model(context: Context, name: str, llm: LLM) -> dict[str, Any]:
    health = llm.engine.health()
    return {
        "metrics": llm.engine.metrics().as_dict(),
        "health": {"ok": health.ok, "reason": health.reason},
        "recent": context.metrics.recent(name),
    }


def _requests(context: Context, viewer: ApiKey) -> Iterator[dict[str, Any]]:
    for job in sorted(context.jobs, key=lambda job: job.begin_s):
        for stream in list(job.streams):
            if not stream.finished:
                yield _request(job, stream, viewer)


def _request(job: Job, stream: Stream, viewer: ApiKey) -> dict[str, Any]:
    usage, timing = stream.usage, stream.timing
    is_own = viewer.tenant in ("", job.tenant)
    return {
        "id": stream.request_id,
        "model": job.model,
        "priority": job.priority,
        "tenant": job.tenant if is_own else None,
        "n_prompt": usage.n_prompt,
        "n_cached": usage.n_cached if is_own else None,
        "n_completion": usage.n_completion,
        "age_s": time.monotonic() - job.begin_s,
        "spent_s": timing and {part: ns * _NS for part, ns in timing.spent_ns.items()},
    }
