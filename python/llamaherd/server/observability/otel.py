"""OpenTelemetry traces of requests, named by its semantic conventions for generative AI."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llamaherd._core import FinishReason, Timing, __version__
from llamaherd.config.params import SamplingParams
from llamaherd.server.observability.spans import Span, Spans

# Traced paths: those that use a model.
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/infill": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
}
_PARAMS = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "n": "choice.count",
}
_FAILED = (FinishReason.CANCELLED, FinishReason.ERROR)
_PARENT = ("traceparent", "tracestate")


class OtelSpans(Spans):
    """Exports spans as configured by the OTEL_... environment variables.

    Args:
      processor: Receives the spans instead.
    """

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "llamaherd"}))
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("llamaherd", __version__)

    def begin(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Span:
        operation = _OPERATIONS.get(path)
        if operation is None:
            return Span()
        carrier = {name: headers.get(name.encode(), b"").decode("latin-1") for name in _PARENT}
        span = self._tracer.start_span(
            f"{method} {path}",
            TraceContextTextMapPropagator().extract(carrier),
            trace.SpanKind.SERVER,
            {
                "http.request.method": method,
                "http.route": path,
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "llamaherd",
            },
        )
        return _OtelSpan(self._tracer, span, operation)

    def close(self) -> None:
        self._provider.shutdown()


class _OtelSpan(Span):
    def __init__(self, tracer: trace.Tracer, span: trace.Span, operation: str) -> None:
        self._tracer = tracer
        self._span = span
        self._operation = operation
        self._reasons: list[str] = []
        self._n_prompt = self._n_cached = self._n_completion = 0

    def model(self, name: str) -> None:
        self._span.update_name(f"{self._operation} {name}")
        self._span.set_attribute("gen_ai.request.model", name)
        self._span.set_attribute("gen_ai.response.model", name)

    def params(self, params: SamplingParams) -> None:
        for name, attribute in _PARAMS.items():
            value = getattr(params, name)
            if value is not None:
                self._span.set_attribute(f"gen_ai.request.{attribute}", value)

    def prompt(self, n_prompt: int, n_cached: int) -> None:
        self._n_prompt += n_prompt
        self._n_cached += n_cached

    def output(self, timing: Timing | None, n_completion: int, reason: FinishReason) -> None:
        self._reasons.append(reason.name.lower())
        self._n_completion += n_completion
        if reason in _FAILED:
            self._fail(reason.name.lower())
        if timing is not None:
            self._trace(timing, reason)

    def _trace(self, timing: Timing, reason: FinishReason) -> None:
        """Add spans for the phases of an output."""
        to_unix_ns = time.time_ns() - time.monotonic_ns()
        spent = {f"llamaherd.spent.{part}": ns * 1e-9 for part, ns in timing.spent_ns.items()}
        output = self._tracer.start_span(
            "output",
            trace.set_span_in_context(self._span),
            attributes={"llamaherd.finish_reason": reason.name.lower(), **spent},
            start_time=timing.submit_ns + to_unix_ns,
        )
        for name, begin_ns, end_ns in _phases(timing):
            phase = self._tracer.start_span(
                name, trace.set_span_in_context(output), start_time=begin_ns + to_unix_ns
            )
            phase.end(end_ns + to_unix_ns)
        output.end(timing.last_ns + to_unix_ns)

    def cancelled(self) -> None:
        self._fail("cancelled")

    def _fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR)

    def end(self, status: int) -> None:
        span = self._span
        span.set_attribute("http.response.status_code", status)
        if self._n_prompt:
            span.set_attribute("gen_ai.usage.input_tokens", self._n_prompt)
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", self._n_cached)
        if self._reasons:
            span.set_attribute("gen_ai.usage.output_tokens", self._n_completion)
            span.set_attribute("gen_ai.response.finish_reasons", self._reasons)
        if status >= 400:
            span.set_attribute("error.type", str(status))
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end()


def _phases(timing: Timing) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of the consecutive phases."""
    yield "queue", timing.submit_ns, timing.start_ns or timing.last_ns
    if timing.start_ns:
        yield "prefill", timing.start_ns, timing.first_token_ns or timing.last_ns
    if timing.first_token_ns:
        yield "decode", timing.first_token_ns, timing.last_ns
