"""Responses of /infill in llama-server's format."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from llamaherd._core import FinishReason, Timing
from llamaherd.request.result import RequestOutput
from llamaherd.server.api.infill_schemas import InfillRequest
from llamaherd.server.api.sse import event
from llamaherd.server.jobs.generation_job import GenerationJob
from llamaherd.server.jobs.line_limit import LineLimit
from llamaherd.server.routes.response_writer import ResponseWriter


class InfillWriter(ResponseWriter):
    """Writes the text, which LineLimit may end early, and its timings."""

    def __init__(self, job: GenerationJob, body: InfillRequest) -> None:
        super().__init__(job, "infill-")
        self._body = body
        self._limit = LineLimit(body.n_indent, body.t_max_predict_ms)
        self._text: list[str] = []

    async def results(self) -> list[RequestOutput]:
        async with aclosing(self._pieces()) as pieces:
            async for _ in pieces:
                pass
        return [self._job.streams[0].result()]

    def whole(self, results: Sequence[RequestOutput]) -> dict[str, Any]:
        (result,) = results
        return self._end(result, "".join(self._text))

    async def events(self) -> AsyncIterator[bytes]:
        async with aclosing(self._pieces()) as pieces:
            async for text, token_ids in pieces:
                yield event({"index": 0, "content": text, "tokens": token_ids, "stop": False})
        yield event(self._end(self._job.streams[0].result(), ""))

    async def _pieces(self) -> AsyncGenerator[tuple[str, list[int]], None]:
        """The pieces of the text, each with the tokens since the last."""
        token_ids: list[int] = []
        async with aclosing(self._job.deltas()) as deltas:
            async for _, delta in deltas:
                if self._body.n_predict == 0:
                    continue
                token_ids += delta.token_ids
                elapsed_ms = (delta.timing.last_ns - delta.timing.first_token_ns) / 1e6
                text = self._limit.add(delta.text, elapsed_ms)
                if delta.finish_reason is not None:
                    text += self._limit.end()
                if text:
                    self._text.append(text)
                    yield text, token_ids
                    token_ids = []
                if self._limit.reached:
                    break
        if self._limit.reached:
            (stream,) = self._job.streams
            stream.cancel()
            await stream.await_end()

    def _end(self, result: RequestOutput, text: str) -> dict[str, Any]:
        """The response; with stream, its last event."""
        usage, made = result.usage, "".join(self._text)
        n_output = 0 if self._body.n_predict == 0 else usage.completion_tokens
        n_total = usage.prompt_tokens + n_output
        max_len = self._job.llm.max_len
        stopping_word = self._stopping_word(result)
        stop_type = "limit"
        if not self._limit.reached and result.finish_reason is FinishReason.STOP and n_output:
            stop_type = "word" if stopping_word else "eos"
        returned = self._body.return_tokens and not self._body.stream and n_output
        response = {
            "index": 0,
            "content": text,
            "tokens": result.token_ids if returned else [],
            "stop": True,
            "model": self._job.request.model,
            "tokens_predicted": n_output,
            "tokens_evaluated": usage.prompt_tokens,
            "has_new_line": "\n" in made,
            "truncated": stop_type == "limit" and n_total >= max_len,
            "stop_type": stop_type,
            "stopping_word": stopping_word if stop_type == "word" else "",
            "generation_settings": {"n_ctx": max_len, "n_predict": self._body.n_predict},
            "tokens_cached": max(0, n_total - 1),
            "timings": _timings(result, n_output),
        }
        fields = self._body.response_fields
        return response if fields is None else _selected(response, fields)

    def _stopping_word(self, result: RequestOutput) -> str:
        """The stop string in the generated text; empty: none."""
        if not self._body.stop:
            return ""
        whole = self._job.llm.engine.detokenize(result.token_ids)
        return next((stop for stop in self._body.stop if stop and stop in whole), "")


def _timings(result: RequestOutput, n_output: int) -> dict[str, float]:
    usage, timing = result.usage, result.timing
    n_prompt = usage.prompt_tokens - usage.cached_tokens
    prompt_ms, output_ms = _times_ms(timing) if timing is not None else (0.0, 0.0)
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": n_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": _ratio(prompt_ms, n_prompt),
        "prompt_per_second": _ratio(1e3 * n_prompt, prompt_ms),
        "predicted_n": n_output,
        "predicted_ms": output_ms,
        "predicted_per_token_ms": _ratio(output_ms, n_output),
        "predicted_per_second": _ratio(1e3 * n_output, output_ms),
    }


def _times_ms(timing: Timing) -> tuple[float, float]:
    """Milliseconds until the first token and from it to the last; 0 if there is none."""
    if not timing.first_token_ns:
        return 0.0, 0.0
    prompt_ns = timing.first_token_ns - timing.start_ns
    return prompt_ns / 1e6, (timing.last_ns - timing.first_token_ns) / 1e6


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _selected(response: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Some fields of a response; a/b: field b of object a."""
    found = {}
    for path in fields:
        value: Any = response
        for name in path.split("/"):
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is not _MISSING:
            found[path] = value
    return found


_MISSING = object()
