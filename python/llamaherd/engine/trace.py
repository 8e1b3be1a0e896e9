"""Writes an engine's trace in Chrome's trace event format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llamaherd._core import TraceCall, TraceSpan

_ENGINE, _REQUESTS = 1, 2


def write(path: Path, spans: Sequence[TraceSpan], calls: Sequence[TraceCall]) -> None:
    """Write a trace: a track of decode calls, counters, and a track for each request."""
    begins = [span.begin_ns for span in spans] + [call.begin_ns for call in calls]
    events = list(_events(spans, calls, min(begins, default=0)))
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _events(
    spans: Sequence[TraceSpan], calls: Sequence[TraceCall], zero_ns: int
) -> Iterator[dict[str, Any]]:
    yield _name("process_name", "engine", _ENGINE)
    yield _name("process_name", "requests", _REQUESTS)
    for request_id in sorted({span.request_id for span in spans}):
        yield _name("thread_name", f"request {request_id}", _REQUESTS, request_id)
    for call in calls:
        yield _slice(_call_name(call), call, zero_ns, _ENGINE, 0) | {
            "args": {
                "decode rows": call.n_decode_rows,
                "prefill rows": call.n_prefill_rows,
                "pad rows": call.n_padding_rows,
                "predicted ms": round(call.predicted_ns / 1e6, 3),
            }
        }
        for name, value in (("waiting", call.n_waiting), ("KV cells", call.n_cells_used)):
            ts = (call.begin_ns - zero_ns) / 1e3
            yield {"ph": "C", "name": name, "pid": _ENGINE, "ts": ts, "args": {name: value}}
    for span in spans:
        yield _slice(span.kind, span, zero_ns, _REQUESTS, span.request_id)


def _call_name(call: TraceCall) -> str:
    if call.n_prefill_rows == 0:
        return "decode"
    return "prefill" if call.n_decode_rows == 0 else "decode + prefill"


def _slice(
    name: str, event: TraceSpan | TraceCall, zero_ns: int, pid: int, tid: int
) -> dict[str, Any]:
    """A complete event; times in microseconds."""
    return {
        "ph": "X",
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": (event.begin_ns - zero_ns) / 1e3,
        "dur": (event.end_ns - event.begin_ns) / 1e3,
    }


def _name(kind: str, name: str, pid: int, tid: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
