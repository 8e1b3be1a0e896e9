"""What a body of JSON may hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from llamaherd.server.api.body_reader import BodyReader
from llamaherd.server.api.json_bounds import require_bounded
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def nested(n: int) -> Any:
    value: Any = 1
    for _ in range(n):
        value = [value]
    return value


def refusal(body: Any, path: str = CHAT, limits: Limits | None = None) -> ApiError:
    with pytest.raises(ApiError) as refused:
        require_bounded(body, path, "messages", limits or Limits())
    assert refused.value.status == 400
    return refused.value


def tool_call(arguments: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def tool(n_properties: int) -> dict[str, Any]:
    properties = {f"p{i}": {"type": "string"} for i in range(n_properties)}
    return {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": properties}},
    }


OVER: dict[str, tuple[str, dict[str, Any], str]] = {
    "levels": (CHAT, {"x": nested(200)}, "max_json_depth"),
    "values": (CHAT, {"x": [0] * 600_000}, "max_json_values"),
    "keys": (CHAT, {f"k{i}": 0 for i in range(5000)}, "max_json_keys"),
    "messages": (CHAT, {"messages": HELLO * 1025}, "max_messages"),
    "parts": (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 5000}]},
        "max_message_parts",
    ),
    "levels of arguments": (
        CHAT,
        {"messages": [tool_call("[" * 60_000 + "]" * 60_000)]},
        "max_json_depth",
    ),
    "tools": (CHAT, {"tools": [tool(0)] * 129}, "max_tools"),
    "properties": (CHAT, {"tools": [tool(3000)] * 3}, "max_schema_nodes"),
    "an enum": (
        CHAT,
        {"response_format": {"json_schema": {"schema": {"enum": list(range(20_000))}}}},
        "max_schema_nodes",
    ),
    "a grammar": (CHAT, {"grammar": "x" * 70_000}, "max_grammar_kib"),
    "choices": (CHAT, {"choice": ["x" * 100] * 1000}, "max_grammar_kib"),
    "biases": (CHAT, {"logit_bias": {str(i): 1 for i in range(2000)}}, "max_logit_bias"),
    "stop tokens": (CHAT, {"stop_token_ids": [1] * 2000}, "max_logit_bias"),
    "prompts": ("/v1/completions", {"prompt": ["x"] * 2000}, "max_prompts"),
    "outputs": ("/v1/completions", {"prompt": ["x"] * 100, "n": 128}, "max_outputs"),
    "texts": ("/v1/embeddings", {"input": ["x"] * 2049}, "max_texts"),
    "documents": ("/v1/rerank", {"query": "x", "documents": ["x"] * 2049}, "max_texts"),
    "continuations": ("/v1/score", {"prompt": "x", "continuations": ["x"] * 2049}, "max_texts"),
    "a prompt of scores": (
        "/v1/score",
        {"prompt": "x" * 100_000, "continuations": ["x"] * 2000},
        "max_score_mib",
    ),
}


@pytest.mark.parametrize("case", list(OVER))
def test_a_bound_that_is_exceeded_is_named_with_its_value(case: str) -> None:
    path, body, limit = OVER[case]
    error = refusal(body, path)
    assert f"(limit {limit})" in error.message
    assert str(Limits().most(limit)) in error.message
    assert len(error.message) < 300


def test_what_is_within_the_bounds_is_let_through() -> None:
    body = {
        "messages": [*HELLO * 1000, tool_call("[" * 100 + "]" * 100), tool_call('["' + "[" * 999)],
        "tools": [tool(100)] * 20,
        "grammar": "x" * 65_000,
        "logit_bias": {"1": 1},
        "choice": None,
        "é": "日本",
    }
    require_bounded(body, CHAT, "messages", Limits())
    for path, kind in (("/v1/completions", {"prompt": [1] * 200_000}), ("/v1/score", {"": ["x"]})):
        require_bounded(kind, path, None, Limits())
    for value in (None, 1, "x", [], [[{}]]):
        require_bounded(value, CHAT, "messages", Limits())


def test_fields_of_other_types_are_left_to_validation() -> None:
    names = ("messages", "tools", "grammar", "choice", "logit_bias", "prompt", "n", "input", "text")
    for value in (None, 1, "x", [1], {"a": 1}, [{"tool_calls": 1}], [{"tool_calls": [1]}]):
        for path in (CHAT, "/v1/completions", "/v1/embeddings", "/v1/score", "/v1/rerank"):
            require_bounded(dict.fromkeys(names, value), path, "messages", Limits())


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"model": "\ud800"}, "model"),
        ({"messages": [{"role": "user", "content": "a\udfff"}]}, "messages[0].content"),
        ({"a": {"b\ud800": 1}}, "a"),
        ({"x": [["\ud800"]]}, "x[0][0]"),
    ],
)
def test_a_lone_surrogate_is_refused_by_its_place(body: Any, place: str) -> None:
    error = refusal(body)
    assert error.message.startswith(f"{place} holds a character that is not valid Unicode")
    assert error.param == place


def read(body: bytes) -> Any:
    return asyncio.run(BodyReader().read(body))


@pytest.mark.parametrize("size", [0, 1 << 18])
@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "an object with duplicate key 'c'"),
        (b"[" * 100_000, "thousands of levels"),
        (b"1" * 5000, "too many digits"),
        (b'"\xed\xa0\x80\xff"', "not valid UTF-8"),
    ],
)
def test_json_that_no_request_may_hold(body: bytes, rule: str, size: int) -> None:
    with pytest.raises(ApiError, match=rule) as refused:
        read(b" " * size + body)
    assert refused.value.status == 400


def test_json_that_is_none() -> None:
    for body in (b"", b"{", b"{'a': 1}", b"nul"):
        with pytest.raises(json.JSONDecodeError):
            read(body)


def test_a_check_is_made_of_bodies_of_any_size() -> None:
    def check(value: Any) -> None:
        raise ApiError(400, f"got {value[0]}")

    reader: Callable[[bytes], Any] = lambda body: BodyReader().read(body, check)  # noqa: E731
    for body in (b"[5]", b"[5," + b"0," * (1 << 18) + b"0]"):
        with pytest.raises(ApiError, match="got 5"):
            asyncio.run(reader(body))


def test_values_of_large_bodies_are_counted_before_they_are_parsed() -> None:
    def require_few(n: int) -> None:
        if n > 5000:
            raise ApiError(400, "too many values")

    def parsed(body: bytes) -> Any:
        return asyncio.run(BodyReader().read(body, require_few=require_few))

    text = json.dumps({"x": '[{,\\"' * 20_000}).encode()
    assert len(parsed(text)["x"]) == 100_000  # they stand in a string
    for body in (b"[" + b"[]," * 50_000 + b"[]]", b'["",' + b'"[",' * 50_000 + b"1]"):
        with pytest.raises(ApiError, match="too many values"):
            parsed(body)
    with pytest.raises(json.JSONDecodeError):
        parsed(b'"' + b"," * 100_000)
