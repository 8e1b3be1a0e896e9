"""Load on an OpenAI-compatible server, and how it bore it."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from llamaherd._core import InvalidRequestError
from llamaherd.replay import percentile

_WORDS = ("river", "town", "bread", "morning", "rain", "hill", "child", "teacher", "letter")
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class LoadSpec:
    """What is asked of a server, and how.

    Args:
      url: Of the API, with /v1 at its end.
      bodies: One request each, without model and stream.
      path: chat/completions or completions.
      model: None: the server's first.
      api_key: None: none.
      concurrency: Closed loop: so many clients, each asking again when it is answered, >= 1.
      rate: Open loop: so many requests a second at random times (a Poisson process), > 0, however
        the server does. None: closed.
      seed: Of these times.
      timeout_s: Of one request.

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


@dataclass
class Answered:
    """One request and what came of it; times of time.perf_counter()."""

    asked_s: float
    token_s: list[float] = field(default_factory=list)  # when pieces of text came
    ended_s: float = 0
    n_prompt: int = 0
    n_completion: int = 0
    error: str = ""


def synthetic_bodies(
    n: int, *, shared_words: int, words: int, max_tokens: int, path: str, seed: int = 0
) -> list[dict[str, Any]]:
    """Requests whose texts begin with the same words and go on with words of their own; greedy.
    llamaherd, vLLM and llama-server go on to max_tokens whatever the model says."""
    rng = random.Random(seed)
    shared = " ".join(rng.choice(_WORDS) for _ in range(shared_words))
    bodies = []
    for _ in range(n):
        own = " ".join(rng.choice(_WORDS) for _ in range(words))
        body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        if path == "completions":
            body["prompt"] = f"{shared} {own}".strip()
        else:
            body["messages"] = [{"role": "user", "content": own}]
            if shared:
                body["messages"].insert(0, {"role": "system", "content": shared})
        bodies.append(body)
    return bodies


async def run_load(spec: LoadSpec) -> list[Answered]:
    """Sends all requests of a load. Each has a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    headers = {"authorization": f"Bearer {spec.api_key}"} if spec.api_key else {}
    timeout = aiohttp.ClientTimeout(total=spec.timeout_s)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout
    ) as session:
        model = spec.model or await _first_model(session, spec.url)
        if spec.rate is None:
            return await _closed(session, spec, model)
        return await _open(session, spec, model)


async def _first_model(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(f"{url}/models") as answer:
        body = await answer.json()
    try:
        return str(body["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise InvalidRequestError(f"{url}/models names no model: {body}") from None


async def _closed(session: aiohttp.ClientSession, spec: LoadSpec, model: str) -> list[Answered]:
    waiting = iter(spec.bodies)

    async def client() -> list[Answered]:
        return [await _ask(session, spec, model, body) for body in waiting]

    answers = await asyncio.gather(*[client() for _ in range(spec.concurrency)])
    return [answer for some in answers for answer in some]


async def _open(session: aiohttp.ClientSession, spec: LoadSpec, model: str) -> list[Answered]:
    assert spec.rate is not None
    rng = random.Random(spec.seed)
    at = time.perf_counter()
    tasks = []
    for body in spec.bodies:
        await asyncio.sleep(at - time.perf_counter())
        tasks.append(asyncio.ensure_future(_ask(session, spec, model, body)))
        at += rng.expovariate(spec.rate)
    return list(await asyncio.gather(*tasks))


async def _ask(
    session: aiohttp.ClientSession, spec: LoadSpec, model: str, body: Mapping[str, Any]
) -> Answered:
    answered = Answered(time.perf_counter())
    whole = {**body, "model": model, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with session.post(f"{spec.url}/{spec.path}", json=whole) as answer:
            if answer.status != 200:
                answered.error = f"{answer.status}: {(await answer.text())[:200]}"
            else:
                await _read(answer, answered)
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        answered.error = f"{type(error).__name__}: {error}"
    answered.ended_s = time.perf_counter()
    return answered


async def _read(answer: aiohttp.ClientResponse, answered: Answered) -> None:
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


def summary(answers: Sequence[Answered]) -> dict[str, Any]:
    """The figures of a load: seconds, tokens per second, and percentiles in milliseconds of time to
    first token (ttft), between pieces (itl), of whole requests (e2e), and per token after the first
    (tpot)."""
    good = [answer for answer in answers if not answer.error]
    figures: dict[str, Any] = {
        "n_requests": len(answers),
        "n_errors": len(answers) - len(good),
        "errors": sorted({answer.error for answer in answers if answer.error})[:5],
    }
    if not good:
        return figures
    seconds = max(a.ended_s for a in good) - min(a.asked_s for a in good)
    n_completion = sum(answer.n_completion for answer in good)
    figures |= {
        "seconds": seconds,
        "n_prompt_tokens": sum(answer.n_prompt for answer in good),
        "n_completion_tokens": n_completion,
        "tokens_per_s": n_completion / seconds,
        "requests_per_s": len(good) / seconds,
    }
    spoken = [answer for answer in good if answer.token_s]
    gaps = [
        b - a for answer in spoken for a, b in zip(answer.token_s, answer.token_s[1:], strict=False)
    ]
    per_token = [
        (a.token_s[-1] - a.token_s[0]) / (a.n_completion - 1) for a in spoken if a.n_completion > 1
    ]
    for name, values in (
        ("ttft_ms", [a.token_s[0] - a.asked_s for a in spoken]),
        ("itl_ms", gaps),
        ("tpot_ms", per_token),
        ("e2e_ms", [a.ended_s - a.asked_s for a in good]),
    ):
        figures[name] = percentiles(values)
    return figures


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Mean, percentiles and maximum of seconds, in milliseconds; empty if there is none."""
    ms = [1e3 * value for value in values]
    if not ms:
        return {}
    ranks = {f"p{percent}": percentile(ms, percent) for percent in PERCENTILES}
    return {"mean": statistics.fmean(ms), **ranks, "max": max(ms)}
