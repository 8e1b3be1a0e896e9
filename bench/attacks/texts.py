"""Texts that are slow to tokenize, contain invalid Unicode, or are names of 4 MB."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from attacks.attack import (
    CHAT,
    COMPLETIONS,
    EITHER,
    REFUSED,
    Attack,
    Client,
    as_json,
    chat,
    completion,
    post,
    schema_format,
    tool,
)

SURROGATE = "\ud800"
NAME = "x" * 4_000_000
SLOW = {
    "special tokens, 200 KB": "<|im_start|>a" * 16_000,
    "special tokens, 4 MB": "<|im_start|>a" * 300_000,
    "special tokens alone, 4 MB": "<|im_end|>" * 400_000,
    "halves of special tokens": "<|im_start|<|im_" * 200_000,
    "one letter, 4 MB": "a" * 4_000_000,
    "blanks, 4 MB": " " * 4_000_000,
    "new lines, 4 MB": "\n" * 4_000_000,
    "digits, 4 MB": "1" * 4_000_000,
    "emoji, 3 MB": "\U0001f468\u200d\U0001f469" * 270_000,
    "combining marks": "e" + "\u0301" * 1_000_000,
    "words without blanks": "abcdefghij" * 300_000,
    "zeros": "\x00" * 600_000,
}


def slow(name: str, text: str) -> Iterator[Attack]:
    """The text in every place where texts are tokenized. Texts above max_len are rejected."""
    for where, path, body in (
        ("completion", COMPLETIONS, completion(text)),
        ("chat", CHAT, chat(text)),
        ("tokenize", "/tokenize", {"prompt": text}),
        ("score", "/v1/score", {"prompt": text, "continuations": ["a"]}),
        ("scored", "/v1/score", {"prompt": "a", "continuations": [text]}),
        ("embedding", "/v1/embeddings", {"model": "embed", "input": text, "truncate": True}),
    ):
        make = functools.partial(dict, body)
        yield Attack(f"{name}: {where}", "texts", post(path, make), EITHER | {404})


def fields(text: str) -> Iterator[tuple[str, Any]]:
    """Bodies, each with the text in one field."""
    message = {"role": "user", "content": "Hi"}
    yield from (
        (COMPLETIONS, completion(text)),
        (COMPLETIONS, completion([text])),
        (COMPLETIONS, completion(model=text)),
        (COMPLETIONS, completion(user=text)),
        (COMPLETIONS, completion(cache_salt=text)),
        (COMPLETIONS, completion(stop=text)),
        (COMPLETIONS, completion(stop=[text])),
        (COMPLETIONS, completion(regex=text)),
        (COMPLETIONS, completion(lark=text)),
        (COMPLETIONS, completion(grammar=text)),
        (COMPLETIONS, completion(grammar=f'root ::= "{text}"')),
        (COMPLETIONS, completion(choice=[text])),
        (COMPLETIONS, completion(logit_bias={text: 1})),
        (COMPLETIONS, completion(**{text: 1})),
        (CHAT, chat(text)),
        (CHAT, chat([{"type": "text", "text": text}])),
        (CHAT, chat(messages=[{**message, "name": text}])),
        (CHAT, chat(messages=[{**message, "role": text}])),
        (CHAT, chat(messages=[{**message, "reasoning_content": text}])),
        (CHAT, chat(messages=[{**message, "tool_call_id": text}])),
        (CHAT, chat(tools=[tool(name=text)])),
        (CHAT, chat(tools=[tool(description=text)])),
        (CHAT, chat(tools=[tool({"type": "object", "properties": {text: {}}})])),
        (CHAT, chat(tools=[tool({"type": "object", "description": text})])),
        (CHAT, chat(tool_choice={"type": "function", "function": {"name": text}})),
        (CHAT, chat(chat_template_kwargs={text: 1})),
        (CHAT, chat(chat_template_kwargs={"x": text})),
        (CHAT, chat(response_format=schema_format({"const": text}))),
        (CHAT, chat(response_format=schema_format({"type": "string", "pattern": text}))),
        (CHAT, chat(response_format={"type": "json_schema", "json_schema": {"name": text}})),
        ("/v1/responses", {"input": text}),
        ("/v1/responses", {"input": "Hi", "instructions": text}),
        ("/v1/responses", {"input": "Hi", "metadata": {text: text}}),
        ("/tokenize", {"prompt": text}),
        ("/tokenize", {"messages": [{**message, "content": text}]}),
        ("/v1/score", {"prompt": text, "continuations": ["a"]}),
        ("/v1/score", {"prompt": "a", "continuations": [text]}),
        ("/v1/embeddings", {"input": text}),
        ("/v1/rerank", {"query": text, "documents": ["a"]}),
        ("/v1/rerank", {"query": "a", "documents": [text]}),
        ("/v1/batches", {"input_file_id": text, "endpoint": CHAT, "completion_window": "24h"}),
        ("/v1/batches", {"input_file_id": "f", "endpoint": text, "completion_window": "24h"}),
    )


def in_every_field(name: str, text: str, allowed: frozenset[int]) -> Attack:
    """The text in another field each time."""
    bodies = [(path, as_json(body)) for path, body in fields("TEXT")]
    quoted = as_json(text)[1:-1]

    async def send(client: Client) -> int:
        path, body = bodies[int(client.unique().split("-")[1]) % len(bodies)]
        return await client.ask("POST", path, body.replace(b"TEXT", quoted))

    return Attack(f"{name} in every field", "texts", send, allowed)


def header(name: str, field: str, value: bytes) -> Attack:
    """A header as raw bytes, since client libraries reject it."""
    head = f"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{field}: "

    async def send(client: Client) -> int:
        return await client.raw(head.encode() + value + b"\r\n\r\n")

    return Attack(name, "texts", send, EITHER | {0, 401, 431})


ATTACKS = [
    *(attack for name, text in SLOW.items() for attack in slow(name, text)),
    in_every_field("a lone surrogate", SURROGATE, REFUSED | {404}),
    in_every_field("a zero", "\x00", EITHER | {404}),
    in_every_field("control characters", "\x1b[2J\r\n\x08\x7f", EITHER | {404}),
    in_every_field("4 MB", NAME[:3_900_000], EITHER | {404}),
    in_every_field("300 KB of quotes", '"' * 300_000, EITHER | {404}),
    in_every_field(
        "a text that is a template", "{{ range(10**9) | list }}{% raw %}", EITHER | {404}
    ),
    header("control characters in x-request-id", "x-request-id", b"\x1b[31mred\x07\x9b"),
    header("quotes in x-request-id", "x-request-id", b'","status":200,"x":"'),
    header("60 KB of x-request-id", "x-request-id", b"x" * 60_000),
    header("bytes above 127 in authorization", "authorization", b"Bearer \xff\xfe\x80"),
    header("60 KB of authorization", "authorization", b"Bearer " + b"x" * 60_000),
    header("a traceparent of nonsense", "traceparent", b"00-zz-zz-zz"),
    Attack(
        "128 stop strings of 1,024 bytes, almost met",
        "texts",
        post(
            COMPLETIONS,
            lambda: completion(
                stop=["a" * 1023 + chr(0x100 + i) for i in range(128)],
                logit_bias={"81": 100},
                max_tokens=2000,
                ignore_eos=True,
            ),
        ),
        EITHER,
        quick=False,
    ),
    Attack(
        "10,000 stop strings",
        "texts",
        post(COMPLETIONS, lambda: completion(stop=[f"s{i}" for i in range(10_000)])),
        REFUSED,
    ),
]
