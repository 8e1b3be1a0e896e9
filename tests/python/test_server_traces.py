"""Requests as OpenTelemetry's traces."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import minilm
import pytest
import tiny_models
from llamaherd import EngineConfig
from llamaherd.server import ModelPool, ModelSpec, create_app
from llamaherd.server.observability.otel import OtelSpans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from serving import serve

pytestmark = pytest.mark.slow

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASK = {"prompt": [5, 6, 7], "max_tokens": 4, "ignore_eos": True, "temperature": 0}


class Traced:
    """A client of an application, and the spans of what it asked."""

    def __init__(self, http: httpx.AsyncClient, exporter: InMemorySpanExporter) -> None:
        self.http = http
        self._exporter = exporter

    async def ask(self, path: str, body: Any, **headers: str) -> tuple[ReadableSpan, ...]:
        """Spans in the order in which they began: the first is the request."""
        self._exporter.clear()
        await self.http.post(path, json=body, headers=headers)
        spans = self._exporter.get_finished_spans()
        return tuple(sorted(spans, key=lambda span: span.start_time or 0))


@pytest.fixture
async def traced(model_path: Path, tmp_path: Path) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    config = EngineConfig(n_ctx=512, max_seqs=2, n_threads=1, warmup=False)
    paths = {
        "tiny": tiny_models.write("plain", tmp_path / "tiny.gguf"),
        "chat": model_path,
        "mini": minilm.write(minilm.fetch(), tmp_path / "mini.gguf"),
    }
    pool = ModelPool([ModelSpec(name, str(path), config) for name, path in paths.items()])
    app = create_app(pool, spans=OtelSpans(SimpleSpanProcessor(exporter)))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http,
    ):
        yield Traced(http, exporter)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_a_span_with_its_outputs_below(traced: Traced, stream: bool) -> None:
    body = {**ASK, "n": 2, "stream": stream}
    parent = f"00-{TRACE}-{PARENT}-01"
    request, *below = await traced.ask("/v1/completions", body, traceparent=parent)
    assert request.name == "text_completion tiny"
    assert request.kind is SpanKind.SERVER
    assert request.resource.attributes["service.name"] == "llamaherd"
    assert request.parent
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in (request, *below)} == {TRACE}
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llamaherd",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0,
        "gen_ai.request.top_p": 1,
        "gen_ai.request.top_k": 0,
        "gen_ai.request.frequency_penalty": 0,
        "gen_ai.request.presence_penalty": 0,
        "gen_ai.request.choice.count": 2,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.response.finish_reasons": ("length", "length"),
    }
    outputs = [span for span in below if span.name == "output"]
    assert len(outputs) == 2
    for output in outputs:
        check_output(request, output, below)


def check_output(request: ReadableSpan, output: ReadableSpan, spans: list[ReadableSpan]) -> None:
    """Its phases follow each other, and its parts add up to all of its time."""
    assert output.parent
    assert output.parent.span_id == request.context.span_id
    assert request.start_time
    assert request.end_time
    assert output.start_time
    assert output.end_time
    assert request.start_time <= output.start_time <= output.end_time <= request.end_time
    phases = [s for s in spans if s.parent and s.parent.span_id == output.context.span_id]
    phases.sort(key=lambda span: span.start_time or 0)
    assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]
    assert phases[0].start_time == output.start_time
    assert phases[-1].end_time == output.end_time
    for before, after in itertools.pairwise(phases):
        assert before.end_time == after.start_time
    attributes = dict(output.attributes or {})
    spent: list[Any] = [v for k, v in attributes.items() if k.startswith("llamaherd.spent.")]
    assert sum(spent) == pytest.approx((output.end_time - output.start_time) * 1e-9, rel=1e-6)
    assert attributes["llamaherd.finish_reason"] == "length"


async def test_chats_and_vectors_have_their_names(traced: Traced) -> None:
    chat = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    texts = {"model": "mini", "input": ["a", "b"]}
    ranked = {"model": "mini", "query": "a", "documents": ["b"]}
    scored = {"model": "tiny", "prompt": [5, 6], "continuations": ["x"]}
    for path, body, name in (
        ("chat/completions", chat, "chat chat"),
        ("embeddings", texts, "embeddings mini"),
        ("rerank", ranked, "rerank mini"),
        ("score", scored, "score tiny"),
    ):
        request, *_ = await traced.ask(f"/v1/{path}", body)
        assert request.name == name
        assert request.parent is None
        assert not any("Hi" in str(value) for value in (request.attributes or {}).values())
        if path == "embeddings":
            assert (request.attributes or {})["gen_ai.usage.input_tokens"] == 6


async def test_what_is_refused_says_why_and_what_is_no_work_is_not_traced(traced: Traced) -> None:
    (request,) = await traced.ask("/v1/completions", {**ASK, "n": 0})
    assert (request.attributes or {})["error.type"] == "400"
    assert request.status.status_code is StatusCode.UNSET
    (request,) = await traced.ask("/v1/completions", {**ASK, "model": "x"})
    assert request.name == "text_completion x"
    assert (request.attributes or {})["http.response.status_code"] == 404
    assert await traced.ask("/tokenize", {"prompt": "x"}) == ()


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Spans that a collector gets, which the environment names."""
    spans: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = Thread(target=server.serve_forever)
    thread.start()
    host, port = server.server_address[:2]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host!s}:{port}")
    yield spans
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_command_sends_them_where_the_environment_says(
    tmp_path: Path, collected: list[Any]
) -> None:
    model = tiny_models.write("plain", tmp_path / "tiny.gguf")
    with serve(f"tiny={model}", options=("--otel", "--n-ctx", "4096")) as served:
        url = served.url + "/v1/completions"
        assert httpx.post(url, json=ASK, timeout=60).status_code == 200
        body = {**ASK, "max_tokens": 4000, "stream": True}
        with httpx.stream("POST", url, json=body, timeout=60) as answer:
            pieces = answer.iter_bytes()
            next(pieces)
        served.logged('"status": 200')
        assert served.stop() == 0
    requests = [span for span in collected if span.name == "text_completion tiny"]
    assert len(requests) == 2
    errors = [a.value.string_value for a in requests[1].attributes if a.key == "error.type"]
    assert errors == ["cancelled"]


def test_without_the_packages_the_command_says_which_are_missing() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; "
        "sys.argv = ['llamaherd', 'serve', '--otel']; "
        "from llamaherd.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("llamaherd: opentelemetry.sdk")
    assert line.endswith("is not installed: pip install 'llamaherd[otel]'")
