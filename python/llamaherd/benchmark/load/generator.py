"""Load generator for OpenAI-compatible servers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import aiohttp

from llamaherd._core import InvalidRequestError
from llamaherd.benchmark.load.arrival import closed_loop, open_loop, poisson
from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.synthetic_text import synthetic_text


@dataclass(frozen=True, kw_only=True)
class LoadSpec:
    """Requests to a server and their arrival.

    Args:
      url: Base URL of the API, ending in /v1.
      bodies: Request bodies without model and stream.
      path: chat/completions or completions.
      model: Model name; None: the server's first.
      api_key: API key; None: no key.
      concurrency: Closed loop: number of clients, >= 1; each sends its next request after the
        response.
      rate: Open loop: requests per second of a Poisson process, > 0. None: closed loop.
      seed: Seed of the arrival times.
      timeout_s: Timeout of one request in seconds.

    Raises:
      InvalidRequestError: A value is out of range.
    """

    url: str
    bodies: Sequence[Mapping[str, Any]]
    path: str = "chat/completions"
    model: str | None = None
    api_key: str | None = None
    concurrency: int = 8
    rate: float | None = None
    seed: int = 0
    timeout_s: float = 600

    def __post_init__(self) -> None:
        if self.path not in ("chat/completions", "completions"):
            raise InvalidRequestError(
                f"path must be chat/completions or completions; got {self.path!r}"
            )
        if self.concurrency < 1:
            raise InvalidRequestError(f"concurrency must be >= 1; got {self.concurrency}")
        if self.rate is not None and self.rate <= 0:
            raise InvalidRequestError(f"rate must be > 0; got {self.rate}")


def synthetic_bodies(
    n: int, *, shared_words: int, words: int, max_tokens: int, path: str, seed: int = 0
) -> list[dict[str, Any]]:
    """Greedy requests with a common prefix and distinct suffixes. llamaherd, vLLM and llama-server
    ignore end of text and generate max_tokens."""
    rng = random.Random(seed)
    shared = synthetic_text(rng, shared_words)
    bodies = []
    for _ in range(n):
        own = synthetic_text(rng, words)
        body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        if path == "completions":
            body["prompt"] = f"{shared} {own}".strip()
        else:
            body["messages"] = [{"role": "user", "content": own}]
            if shared:
                body["messages"].insert(0, {"role": "system", "content": shared})
        bodies.append(body)
    return bodies


class HttpClient:
    """HTTP client with one connection per request. An async context manager.

    Args:
      url: Base URL of the API, ending in /v1.
      path: chat/completions or completions.
      model: Model name; None: the server's first.
      api_key: API key; None: no key.
      timeout_s: Timeout of one request in seconds.
    """

    def __init__(
        self,
        url: str,
        path: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 600,
    ) -> None:
        self._url, self._path, self._model = url, path, model
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __aenter__(self) -> HttpClient:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector, headers=self._headers, timeout=self._timeout
        )
        try:
            self._model = self._model or await _first_model(self._session, self._url)
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, body: Mapping[str, Any]) -> RequestMeasurement:
        """Send a request body with model and stream added; reads the response stream."""
        answered = RequestMeasurement(time.perf_counter())
        whole = {
            **body,
            "model": self._model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self._session.post(f"{self._url}/{self._path}", json=whole) as answer:
                if answer.status != 200:
                    answered.error = f"{answer.status}: {(await answer.text())[:200]}"
                else:
                    await _read(answer, answered)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            answered.error = f"{type(error).__name__}: {error}"
        answered.ended_s = time.perf_counter()
        return answered


async def run_load(spec: LoadSpec) -> list[RequestMeasurement]:
    """Send all requests of a load."""
    async with HttpClient(
        spec.url, spec.path, model=spec.model, api_key=spec.api_key, timeout_s=spec.timeout_s
    ) as client:
        if spec.rate is None:
            return await closed_loop(client.ask, [[body] for body in spec.bodies], spec.concurrency)
        arrivals_s = list(islice(poisson(spec.rate, spec.seed), len(spec.bodies)))
        return await open_loop(client.ask, spec.bodies, arrivals_s)


async def _first_model(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(f"{url}/models") as answer:
        body = await answer.json()
    try:
        return str(body["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise InvalidRequestError(
            f"{url}/models must list at least one model; got {body}"
        ) from None


async def _read(answer: aiohttp.ClientResponse, answered: RequestMeasurement) -> None:
    done = False
    async for data in _events(answer):
        if data == b"[DONE]":
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            answered.error = str(event["error"])
        if any(_has_text(choice) for choice in event.get("choices", ())):
            answered.token_s.append(time.perf_counter())
        usage = event.get("usage")
        if usage:
            answered.n_prompt = usage["prompt_tokens"]
            answered.n_completion = usage["completion_tokens"]
    if not done and not answered.error:
        answered.error = "the stream ended without [DONE]"
    answered.n_completion = answered.n_completion or len(answered.token_s)


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield line[6:].strip()


def _has_text(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta", choice)
    return bool(delta.get("content") or delta.get("text") or delta.get("reasoning_content"))
