"""Deeply nested JSON, also within strings."""

from __future__ import annotations

import json
from typing import Any

from attacks.attack import (
    CHAT,
    EITHER,
    REFUSED,
    Attack,
    Client,
    calling,
    chat,
    object_of,
    post,
    tool,
)

TOOLS = [tool(object_of(x={}))]


def lists(depth: int) -> str:
    return "[" * depth + "]" * depth


def objects(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def history(name: str, arguments: str, allowed: frozenset[int] = EITHER) -> list[Attack]:
    """The arguments in a tool call of a chat history, of a response, and of /tokenize."""
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
    texts = {"messages": calling(arguments)["messages"]}
    return [
        Attack(
            f"{name} in a call",
            "nesting",
            post(CHAT, lambda: calling(arguments, tools=TOOLS)),
            allowed,
            needs="tools",
        ),
        Attack(
            f"{name} in a response's call",
            "nesting",
            post("/v1/responses", lambda: {"input": [item], "max_output_tokens": 4}),
            allowed,
        ),
        Attack(f"{name} tokenized", "nesting", post("/tokenize", lambda: texts), allowed),
    ]


def body(name: str, content: bytes) -> Attack:
    async def send(client: Client) -> int:
        return await client.ask("POST", CHAT, content)

    return Attack(f"body: {name}", "nesting", send, REFUSED)


def inside(depth: int) -> Any:
    return json.loads(lists(depth))


def repeated(value: str, bias: dict[str, float], **fields: Any) -> dict[str, Any]:
    """A request for which a small model repeats an earlier tool call with a value like this one,
    supported by a bias for SmolLM2's tokens of it."""
    call = calling('{"x": ' + value + "}")["messages"][:2]
    return {
        "messages": [*call, *call, call[0]],
        "tools": TOOLS,
        "logit_bias": bias,
        "max_tokens": 4700,
        "temperature": 0,
        "user": "bad",
        **fields,
    }


def answers(name: str, value: str, bias: dict[str, float], **fields: Any) -> list[Attack]:
    """The request not streamed and streamed."""
    return [
        Attack(
            f"{how} of {name}",
            "nesting",
            post(CHAT, lambda s=s: repeated(value, bias, stream=s, **fields), patience_s=300),
            EITHER,
            n_clients=1,
            quick=False,
            needs="tools",
        )
        for s, how in ((False, "an answer"), (True, "a streamed answer"))
    ]


ATTACKS = [
    *history("60,000 lists", lists(60_000)),
    *history("60,000 open lists", "[" * 60_000),
    *history("60,000 objects", objects(60_000)),
    *history("60,000 lists in an object", '{"x":' + lists(60_000) + "}"),
    *history("lists in strings of strings", json.dumps(json.dumps(json.dumps(lists(60_000))))),
    *history("arguments of invalid JSON", "\x80\ufffd{"),
    *history("a huge number", '{"x": ' + "9" * 100_000 + "}"),
    *history("a huge exponent", '{"x": 1e999999999}'),
    *history("a repeated key", "{" + ",".join(['"a":1'] * 50_000) + "}"),
    Attack(
        "nested lists as a tool's result",
        "nesting",
        post(
            CHAT,
            lambda: {
                **calling("{}", tools=TOOLS),
                "messages": [
                    *calling("{}")["messages"][:-1],
                    {"role": "tool", "tool_call_id": "c", "content": lists(60_000)},
                ],
            },
        ),
        EITHER,
        needs="tools",
    ),
    body("a million open lists", b"[" * 1_000_000),
    body("100,000 lists", b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    body("100,000 objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    body("600 lists", b'{"logit_bias": ' + b"[" * 600 + b"]" * 600 + b"}"),
    body("a number of a million digits", b'{"max_tokens": ' + b"9" * 1_000_000 + b"}"),
    body("a number of 4,000 digits", b'{"seed": ' + b"9" * 4000 + b"}"),
    body("NaN", b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'),
    body("Infinity", b'{"messages": [{"role": "user", "content": "x"}], "min_p": Infinity}'),
    body("bytes of invalid UTF-8", b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    body("UTF-16", '{"messages": []}'.encode("utf-16")),
    body("nothing", b""),
    body("null", b"null"),
    Attack(
        "template variables nested 100 deep",
        "nesting",
        post(CHAT, lambda: chat(chat_template_kwargs={"x": inside(100)})),
        EITHER,
    ),
    Attack(
        "template variables nested 900 deep",
        "nesting",
        post(CHAT, lambda: chat(chat_template_kwargs={"x": inside(900)})),
        EITHER,
    ),
    Attack(
        "template variables that replace the template's own",
        "nesting",
        post(
            CHAT,
            lambda: chat(
                chat_template_kwargs={
                    "messages": [{"role": "x"}],
                    "tools": 5,
                    "add_generation_prompt": "x",
                    "bos_token": "x" * 100_000,
                    "enable_thinking": [],
                    "range": 1,
                }
            ),
        ),
        EITHER,
    ),
    Attack(
        "50,000 template variables",
        "nesting",
        post(CHAT, lambda: chat(chat_template_kwargs={f"v{i}": i for i in range(50_000)})),
        EITHER,
    ),
    *answers("nested lists", lists(100), {"75": 3, "32803": 3}),
    *answers("a long list", "[" + "1, " * 60 + "1]", {"28": 2}, n=4),
]
