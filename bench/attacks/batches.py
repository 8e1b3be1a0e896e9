"""Batch jobs of malicious lines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from attacks.access import FORM, form
from attacks.attack import (
    CHAT,
    CLOSED,
    COMPLETIONS,
    EITHER,
    JSON,
    LEFT,
    REFUSED,
    Attack,
    Client,
    Send,
    as_json,
    calling,
    chat,
    completion,
    object_of,
    post,
    schema_format,
)
from attacks.constraints import REVERSED, doubling

POISON = [
    completion(grammar="root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
    completion(grammar='root ::= "a"{3,1}'),
    completion(grammar="root ::= " + "[a-z ]? " * 30),
    completion(grammar=doubling(40)),
    completion("<|im_start|>a" * 16_000),
    completion(n=128, logit_bias={str(i): 1 for i in range(20_000)}),
    completion(prompt="\ud800"),
    completion(max_tokens=10**30),
    {"prompt": None},
]
CHATS = [
    calling("[" * 60_000 + "]" * 60_000),
    chat(response_format=schema_format(object_of(x=REVERSED))),
    chat(response_format=schema_format({"type": "integer", "multipleOf": 999983})),
]


def lines(endpoint: str, bodies: list[Any]) -> bytes:
    entries = [
        {"custom_id": f"{i}", "method": "POST", "url": endpoint, "body": body}
        for i, body in enumerate(bodies)
    ]
    return b"\n".join(map(as_json, entries))


def batch(endpoint: str, content: bytes, wait_s: float = 20) -> Send:
    """Uploads a file, starts a batch, waits for its end, and cancels it after the timeout."""

    async def send(client: Client) -> int:
        status, uploaded = await call(client, "POST", "/v1/files", form(content), FORM)
        if uploaded is None:
            return status
        body = {
            "input_file_id": uploaded["id"],
            "endpoint": endpoint,
            "completion_window": "24h",
        }
        status, made = await call(client, "POST", "/v1/batches", as_json(body), JSON)
        if made is not None:
            status = await ended(client, made["id"], wait_s)
        await client.ask("DELETE", f"/v1/files/{uploaded['id']}")
        return status

    return send


async def ended(client: Client, batch_id: str, wait_s: float) -> int:
    until = asyncio.get_running_loop().time() + wait_s
    while asyncio.get_running_loop().time() < until:
        status, state = await call(client, "GET", f"/v1/batches/{batch_id}", None, JSON)
        if state is None or state["status"] in ("completed", "failed", "expired"):
            return status
        await asyncio.sleep(0.5)
    await client.ask("POST", f"/v1/batches/{batch_id}/cancel")
    return LEFT


async def call(
    client: Client, method: str, path: str, content: bytes | None, headers: dict[str, str]
) -> tuple[int, Any]:
    """A response's status, and its body if that is 200."""
    reader, writer = await client.connect(limit=1 << 24)
    try:
        head = {**headers, "host": "127.0.0.1", "connection": "close"}
        head["content-length"] = str(len(content or b""))
        text = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode() + (content or b""))
        answer = await asyncio.wait_for(reader.read(), 15)
    except asyncio.TimeoutError:
        return LEFT, None
    except ConnectionError:
        return CLOSED, None
    finally:
        writer.close()
    if not answer:
        return CLOSED, None
    status = int(answer.split(b" ", 2)[1])
    return status, json.loads(answer.partition(b"\r\n\r\n")[2]) if status == 200 else None


ALLOWED = EITHER | {403, 404}

ATTACKS = [
    Attack(
        "malicious lines",
        "batches",
        batch(COMPLETIONS, lines(COMPLETIONS, POISON)),
        ALLOWED,
        quick=False,
    ),
    Attack("malicious chats", "batches", batch(CHAT, lines(CHAT, CHATS)), ALLOWED, quick=False),
    Attack(
        "20,000 lines",
        "batches",
        batch(COMPLETIONS, lines(COMPLETIONS, [completion(max_tokens=1)] * 20_000), wait_s=5),
        ALLOWED,
        quick=False,
    ),
    Attack(
        "lines of invalid JSON",
        "batches",
        batch(CHAT, b"{\n[1\n" + b"[" * 100_000),
        ALLOWED,
        quick=False,
    ),
    Attack("a line of 10 MB", "batches", batch(CHAT, b"x" * 10_000_000), ALLOWED, quick=False),
    Attack("an empty file", "batches", batch(CHAT, b""), ALLOWED, quick=False),
    Attack(
        "5 million empty lines", "batches", batch(CHAT, b"\n" * 5_000_000), ALLOWED, quick=False
    ),
    Attack(
        "a batch of an unknown file",
        "batches",
        post(
            "/v1/batches",
            lambda: {"input_file_id": "\ud800", "endpoint": CHAT, "completion_window": "24h"},
        ),
        REFUSED | {404},
    ),
    Attack(
        "metadata without end",
        "batches",
        post(
            "/v1/batches",
            lambda: {
                "input_file_id": "file-x",
                "endpoint": CHAT,
                "completion_window": "24h",
                "metadata": {f"k{i}": "v" * 30 for i in range(50_000)},
            },
        ),
        REFUSED | {404},
    ),
]
