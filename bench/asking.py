"""Well-behaved client requests of every kind, with checks of their responses."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import aiohttp

RETRIED = (429, 503)
N_GREEDY = 8
SCHEMA = {
    "type": "object",
    "properties": {"word": {"enum": ["alpha", "bravo", "charlie"]}, "flag": {"type": "boolean"}},
    "required": ["word", "flag"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "note", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def _called(words: str, flag: bool) -> list[dict[str, Any]]:
    arguments = json.dumps({"word": words, "flag": flag})
    call = {"id": words, "type": "function"}
    call |= {"function": {"name": "note", "arguments": arguments}}
    return [
        {"role": "user", "content": f"Note {words}."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]


# A small model repeats earlier turns.
_CALLED = [*_called("alpha", True), *_called("bravo", False), *_called("charlie", True)]


class Problem(Exception):
    """An incorrect response."""


def user(words: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": words}]


class Asker:
    """Sends requests to a server and checks the responses.

    Attributes:
      longest_gap_s: Longest time between two deltas of a stream, in seconds.
      n_refused: Responses with 429 or 503; these requests are retried.
      n_calls: Tool calls received.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, *, embeds: bool) -> None:
        self._url, self._session = url, session
        self._greedy: list[str] = []
        self._vector: list[float] = []
        self.longest_gap_s = 0.0
        self.n_refused = self.n_calls = 0
        self._kinds = {
            "stream": self._stream,
            "chat": self._chat,
            "completion": self._completion,
            "greedy": self._greedy_again,
            "schema": self._structured,
            "tool": self._tool,
            "tokens": self._tokens,
            "batch": self._batch,
        }
        if embeds:
            self._kinds["embedding"] = self._embedding
        # Most requests are streams.
        self.kinds = [*self._kinds, *["stream"] * len(self._kinds)]

    async def learn(self) -> None:
        """Record the outputs of greedy requests without other load."""
        for i in range(N_GREEDY):
            self._greedy.append(await self._greedy_text(i))
        if "embedding" in self._kinds:
            self._vector = await self._embed()

    async def ask(self, kind: str, rng: random.Random) -> None:
        """Send a request of one kind. Raises Problem if the response is incorrect."""
        await self._kinds[kind](rng)

    async def _json(
        self, method: str, path: str, body: Any = None, make_form: Any = lambda: None
    ) -> Any:
        while True:
            async with self._session.request(
                method, self._url + path, json=body, data=make_form()
            ) as answer:
                if answer.status in RETRIED:
                    await self._come_back(answer)
                elif answer.status != 200:
                    raise Problem(f"{answer.status}: {(await answer.text())[:300]}")
                else:
                    return await answer.json()

    async def _come_back(self, answer: aiohttp.ClientResponse) -> None:
        self.n_refused += 1
        await asyncio.sleep(min(float(answer.headers.get("retry-after", 1)), 2))

    async def _stream(self, rng: random.Random) -> None:
        words = " ".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 60)))
        body = {
            "messages": user(words),
            "max_tokens": rng.randint(1, 64),
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        while not await self._stream_once(body):
            pass

    async def _stream_once(self, body: dict[str, Any]) -> bool:
        """Run one stream; False: it has to be retried."""
        last, reason, at, usage = b"", None, 0.0, None
        async with self._session.post(self._url + "/v1/chat/completions", json=body) as answer:
            if answer.status in RETRIED:
                await self._come_back(answer)
                return False
            if answer.status != 200:
                raise Problem(f"{answer.status}: {(await answer.text())[:300]}")
            async for line in answer.content:
                if not line.startswith(b"data: "):
                    continue
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - at if at else 0)
                at, last = now, line[6:].strip()
                if last == b"[DONE]":
                    continue
                event = json.loads(last)
                if "error" in event:
                    raise Problem(str(event["error"]))
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    reason = choice["finish_reason"] or reason
        if last != b"[DONE]" or reason != "length":
            raise Problem(f"a stream ended with {last!r}, finish_reason {reason}")
        if usage is None or usage["completion_tokens"] != body["max_tokens"]:
            raise Problem(f"expected {body['max_tokens']} tokens; got usage {usage}")
        return True

    async def _chat(self, rng: random.Random) -> None:
        body = {"messages": user(f"Say {rng.random()}."), "max_tokens": 16, "ignore_eos": True}
        answer = await self._json("POST", "/v1/chat/completions", {**body, "n": rng.randint(1, 3)})
        for choice in answer["choices"]:
            if choice["finish_reason"] != "length":
                raise Problem(f"{choice}")

    async def _completion(self, rng: random.Random) -> None:
        body = {"prompt": [f"Once {rng.random()}", "Twice"], "max_tokens": 12, "ignore_eos": True}
        answer = await self._json("POST", "/v1/completions", body)
        if [choice["finish_reason"] for choice in answer["choices"]] != ["length"] * 2:
            raise Problem(f"{answer}")

    async def _greedy_text(self, i: int) -> str:
        # Private: a prefix restored from host memory changes results in the last bits.
        body = {
            "messages": user(f"Count from {i}."),
            "max_tokens": 24,
            "temperature": 0,
            "cache": False,
        }
        answer = await self._json("POST", "/v1/chat/completions", body)
        text: str = answer["choices"][0]["message"]["content"]
        return text

    async def _greedy_again(self, rng: random.Random) -> None:
        i = rng.randrange(N_GREEDY)
        text = await self._greedy_text(i)
        if text != self._greedy[i]:
            raise Problem(f"expected {self._greedy[i]!r}, got {text!r}")

    async def _structured(self, rng: random.Random) -> None:
        body = {"messages": user(f"{rng.random()}"), "response_format": FORMAT, "max_tokens": 60}
        answer = await self._json("POST", "/v1/chat/completions", body)
        _require_value(answer["choices"][0]["message"]["content"])

    async def _tool(self, rng: random.Random) -> None:
        body = {
            "messages": [*_CALLED, *user(f"Note {rng.random()}.")],
            "tools": [TOOL],
            "max_tokens": 60,
            "temperature": 0.2,
        }
        answer = await self._json("POST", "/v1/chat/completions", body)
        (choice,) = answer["choices"]
        # The model may also generate text.
        for call in choice["message"].get("tool_calls") or ():
            if choice["finish_reason"] == "tool_calls":
                self.n_calls += 1
                _require_value(call["function"]["arguments"])

    async def _tokens(self, rng: random.Random) -> None:
        text = f"The number {rng.random()} <|im_end|>."
        tokens = (await self._json("POST", "/tokenize", {"prompt": text}))["tokens"]
        back = await self._json("POST", "/detokenize", {"tokens": tokens, "special": True})
        if back["prompt"] != text:
            raise Problem(f"expected {text!r}, got {back['prompt']!r}")

    async def _embed(self) -> list[float]:
        body = {"model": "embed", "input": ["One text.", "Another one."]}
        answer = await self._json("POST", "/v1/embeddings", body)
        vector: list[float] = answer["data"][1]["embedding"]
        return vector

    async def _embedding(self, rng: random.Random) -> None:
        vector = await self._embed()
        if max(abs(a - b) for a, b in zip(vector, self._vector, strict=True)) > 0.01:
            raise Problem("the same text has another embedding")

    async def _batch(self, rng: random.Random) -> None:
        path = "/v1/chat/completions"
        body = {"messages": user(f"{rng.random()}"), "max_tokens": 4, "ignore_eos": True}
        lines = [{"custom_id": f"{i}", "method": "POST", "url": path, "body": body} for i in "ab"]
        content = "\n".join(map(json.dumps, lines)).encode()

        def form() -> aiohttp.FormData:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", content, filename="lines.jsonl")
            return form

        file_id = (await self._json("POST", "/v1/files", make_form=form))["id"]
        made = {"input_file_id": file_id, "endpoint": path, "completion_window": "24h"}
        batch = await self._json("POST", "/v1/batches", made)
        while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            await asyncio.sleep(0.5)
            batch = await self._json("GET", f"/v1/batches/{batch['id']}")
        if batch["status"] != "completed" or batch["request_counts"]["completed"] != 2:
            raise Problem(f"{batch}")
        for done in (file_id, batch["output_file_id"]):
            await self._json("DELETE", f"/v1/files/{done}")


def _require_value(text: str) -> None:
    value = json.loads(text)
    if set(value) != {"word", "flag"} or value["word"] not in ("alpha", "bravo", "charlie"):
        raise Problem(f"{text!r} does not conform to its schema")
