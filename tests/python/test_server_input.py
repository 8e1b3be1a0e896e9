"""Whatever a client sends has a defined answer, and harms nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from llamaherd.server.api import body_reader
from llamaherd.server.api.body_reader import BodyReader
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import Served, serve

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
HUGE = 10 << 20
OPTIONS = ("--n-ctx", "4096", "--default-max-tokens", "4")
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def served(model_path: Path) -> Iterator[Served]:
    with serve(model_path, options=OPTIONS) as served:
        yield served


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    numbers = {"n_prompt_tokens", "n_ctx"} if error["code"] == "context_length_exceeded" else set()
    assert set(error) == {"message", "type", "param", "code"} | numbers
    assert error["message"]
    return error


def with_message(**fields: Any) -> dict[str, Any]:
    return {**ASK, "messages": [{"role": "user", "content": "Hi", **fields}]}


def deep(n: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(n):
        value = {"x": value}
    return value


def call(arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({**ASK, "foo": 1}, "foo is not supported"),
    "unknown field of a message": (with_message(mood="good"), "mood is not supported"),
    "a misspelt field": ({**ASK, "temprature": 1}, "did you mean temperature?"),
    "audio": ({**ASK, "modalities": ["text", "audio"]}, "modalities[1] must be 'text'"),
    "a voice": ({**ASK, "audio": {"voice": "x"}}, "audio is not supported: answers are text"),
    "an image": (
        with_message(
            content=[{"type": "text", "text": ""}, {"type": "image_url", "image_url": {"url": "x"}}]
        ),
        "messages[0].content[1]: content parts of type image_url are not supported: this server "
        "accepts text",
    ),
    "a part without a type": (with_message(content=[{"text": ""}]), "must have a type: text"),
    "a part that is no object": (with_message(content=["Hi"]), "content[0] must be an object"),
    "token ids": (with_message(content=[1, 2]), "content[0] must be an object; got 1"),
    "a message that is a text": ({"messages": ["Hi"]}, "messages[0] must be an object; got"),
    "a tool of another type": (
        {**ASK, "tools": [{"type": "custom", "custom": {"name": "f"}}]},
        "tools[0]: tools of type custom are not supported: this server accepts function",
    ),
    "no messages": ({"messages": []}, "at least 1"),
    "messages of a type": ({"messages": "Hi"}, 'messages must be an array; got "Hi"'),
    "no role": ({"messages": [{"content": ""}]}, "messages[0].role is required"),
    "a role": (with_message(role="king"), "messages[0].role must be 'system', "),
    "content of a type": (
        with_message(content=5),
        "messages[0].content must be a string or an array; got 5",
    ),
    "temperature of a type": (
        {**ASK, "temperature": "hot"},
        'temperature must be a valid number, unable to parse string as a number; got "hot"',
    ),
    "temperature below 0": ({**ASK, "temperature": -1}, "[0, 100]; got -1"),
    "top_p below 0": ({**ASK, "top_p": -1}, "top_p must be in (0, 1]"),
    "n of 0": ({**ASK, "n": 0}, "n must be in [1, 128]"),
    "n of 1000": ({**ASK, "n": 1000}, "n must be in [1, 128]"),
    "max_tokens of 0": ({**ASK, "max_tokens": 0}, "max_tokens"),
    "both max_tokens": ({**ASK, "max_completion_tokens": 3}, "must be equal if both are set"),
    "a bias for no token": ({**ASK, "logit_bias": {"x": 1}}, "logit_bias"),
    "a bias out of range": ({**ASK, "logit_bias": {"99999999": 1}}, "logit_bias"),
    "top_logprobs alone": ({**ASK, "top_logprobs": 2}, "requires logprobs"),
    "a tool that is not there": (
        {**ASK, "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "got 'g'",
    ),
    "a schema keyword": (
        {
            **ASK,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"uniqueItems": True}},
            },
        },
        "uniqueItems",
    ),
    "a grammar that does not parse": ({**ASK, "grammar": 'root ::= "a'}, "does not parse"),
    "two rules": ({**ASK, "regex": "a", "choice": ["b"]}, "only one of"),
    "a priority": ({**ASK, "priority": 101}, "must be less than or equal to 100; got 101"),
    "a negative priority": ({**ASK, "priority": -(10**30)}, "priority must be greater"),
    "store": ({**ASK, "store": "yes please"}, "store must be a valid boolean"),
    "5,000 tools": ({**ASK, "tools": [{"type": "function"}] * 5000}, "(limit max_tools)"),
    "a bias of all tokens": (
        {**ASK, "logit_bias": {str(i): 1 for i in range(4000)}},
        "(limit max_logit_bias)",
    ),
    "levels": ({**ASK, "chat_template_kwargs": deep(200)}, "(limit max_json_depth)"),
    "levels in a string": (
        with_message(role="assistant", tool_calls=[call("[" * 60_000)]),
        "(limit max_json_depth)",
    ),
    "a grammar of 1 MB": ({**ASK, "grammar": "x" * (1 << 20)}, "(limit max_grammar_kib)"),
    "a model's name": ({**ASK, "model": "\ud800"}, "model holds a character"),
    "a salt": ({**ASK, "cache_salt": "\ud800"}, "cache_salt holds a character"),
    "a lone surrogate": (with_message(content="\ud800"), "messages"),
    "too long": (with_message(content="a b " * 9000), "maximum context length is"),
    "too long by its bytes": (with_message(content="a" * (3 << 20)), "maximum context length is"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_broken_rule_is_a_400_that_states_it(http: httpx.Client, case: str) -> None:
    body, expected = BAD[case]
    for stream in (False, True):
        content = json.dumps({**body, "stream": stream})
        answer = http.post(
            "/v1/chat/completions",
            content=content,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 400, answer.text
        error = error_of(answer)
        assert error["type"] == "invalid_request_error"
        assert expected in error["message"]


def test_what_is_no_json(http: httpx.Client) -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[1,", b'"' + b"\\u00" * 5):
        answer = http.post(
            "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400, content
        error_of(answer)
    deep = b"[" * 100_000
    answer = http.post(
        "/v1/chat/completions", content=deep, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    error_of(answer)


def test_an_unknown_model_path_and_method(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={**ASK, "model": "gpt-9"})
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found"
    for answer, status in ((http.get("/v1/nothing"), 404), (http.get("/v1/completions"), 405)):
        assert answer.status_code == status
        error_of(answer)


def test_errors_quote_a_bounded_part_of_what_was_sent(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={**ASK, "model": "m" * 1_000_000})
    assert answer.status_code == 404
    assert len(answer.content) < 3000
    answer = http.post("/v1/chat/completions", json={**ASK, "f" * 1_000_000: 1})
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["message"].endswith("... (1000017 characters)")
    assert error["param"].endswith("f... (1000000 characters)")
    assert len(answer.content) < 3000


def test_a_chat_model_makes_embeddings_only_if_it_says_how(http: httpx.Client) -> None:
    answer = http.post("/v1/embeddings", json={"input": "x"})
    assert answer.status_code == 400
    error_of(answer)


def test_bodies_have_a_bound_whether_they_say_their_size_or_not(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", content=b" " * HUGE)
    assert answer.status_code == 413
    assert (
        "a body must hold at most 4194304 bytes; got 10485760 (limit max_body_mib)"
        in error_of(answer)["message"]
    )

    def chunks() -> Iterator[bytes]:
        for _ in range(HUGE >> 16):
            yield b" " * (1 << 16)

    answer = http.post("/v1/chat/completions", content=chunks())
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/v1/chat/completions", b"content-length: 1000000000", 413),
        ("/v1/chat/completions", b"transfer-encoding: chunked", 413),
        ("/v1/nothing", b"transfer-encoding: chunked", 404),
    ],
)
def test_a_body_that_is_refused_is_not_read(
    served: Served, path: str, size: bytes, status: int
) -> None:
    at = urlsplit(served.url)
    assert at.hostname
    piece = b"10000\r\n" + b" " * (1 << 16) + b"\r\n"
    with socket.create_connection((at.hostname, at.port or 80), timeout=30) as connection:
        head = (
            b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n%b\r\n\r\n"
        )
        connection.sendall(head % (path.encode(), size))
        n_sent = 0
        with contextlib.suppress(ConnectionError):
            while n_sent < 1 << 30:
                connection.sendall(piece)
                n_sent += len(piece)
        # What the two ends of the connection keep comes on top of what was read.
        assert n_sent < 32 << 20
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/tokenize"])
def test_ten_thousand_messages_are_counted_not_choked_on(http: httpx.Client, path: str) -> None:
    field = "input" if path == "/v1/responses" else "messages"
    answer = http.post(path, json={field: [{"role": "user", "content": "x"}] * 10_000})
    assert answer.status_code == 400
    error = error_of(answer)
    assert (
        error["message"] == f"{field} must hold at most 1024 items; got 10000 (limit max_messages)"
    )
    assert error["param"] == field


def test_the_schema_says_how_many_messages_there_may_be(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["ChatRequest"]["properties"]["messages"]["maxItems"] == 1024
    for name, field in (("ResponsesRequest", "input"), ("TokenizeRequest", "messages")):
        kinds = schemas[name]["properties"][field]["anyOf"]
        assert [kind.get("maxItems") for kind in kinds if kind["type"] == "array"] == [1024]


def test_a_million_broken_items_have_one_error(http: httpx.Client) -> None:
    for path, field in (("completions", "prompt"), ("embeddings", "input"), ("score", "prompt")):
        answer = http.post(f"/v1/{path}", json={field: [None] * 600_000})
        assert answer.status_code == 400
        assert len(error_of(answer)["message"]) < 500


def test_a_big_body_that_is_no_json(http: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    answer = http.post("/v1/chat/completions", content=b"[" + b" " * (1 << 20), headers=headers)
    assert answer.status_code == 400
    assert "not valid JSON" in error_of(answer)["message"]


async def test_big_bodies_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    n_now, most = 0, 0

    def parse(body: bytes, check: Any) -> Any:
        nonlocal n_now, most
        n_now += 1
        most = max(most, n_now)
        sum(range(1_000_000))
        n_now -= 1
        return len(body)

    monkeypatch.setattr(body_reader, "_parse", parse)
    reader = BodyReader()
    sizes = [(1 << 19) + i for i in range(4)]
    assert await asyncio.gather(*[reader.read(b" " * n) for n in sizes]) == sizes
    assert most == 1
    assert reader._rest_s > 0


def test_headers_have_a_bound(http: httpx.Client) -> None:
    answer = http.get("/health", headers={"x-long": "x" * (1 << 20)})
    assert answer.status_code == 431
    error_of(answer)


def test_an_upgrade_that_there_is_not_is_passed_over(http: httpx.Client) -> None:
    for protocol in ("websocket", "h2c"):
        headers = {"connection": "upgrade", "upgrade": protocol}
        assert http.get("/health", headers=headers).status_code == 200


def test_headers_without_end_close_the_connection(served: Served) -> None:
    at = urlsplit(served.url)
    assert at.hostname
    with socket.create_connection((at.hostname, at.port or 80), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        answer = b""
        try:
            for i in range(100_000):
                connection.sendall(b"x-%d: %b\r\n" % (i, b"y" * 1000))
        except OSError:
            pass
        else:
            pytest.fail("100 MB of headers were taken")
        try:
            answer = connection.recv(1 << 16)
        except OSError:
            return
        assert answer == b"" or b" 431 " in answer


def test_a_reader_that_stops_reading_holds_up_nobody(served: Served, http: httpx.Client) -> None:
    at = urlsplit(served.url)
    body = json.dumps({**ASK, "max_tokens": 1500, "ignore_eos": True, "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    head += b"content-type: application/json\r\n"
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((at.hostname, at.port))
    slow.sendall(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    time.sleep(0.5)
    for _ in range(3):
        assert http.post("/v1/chat/completions", json=ASK).status_code == 200
    slow.close()
    deadline = time.monotonic() + 60
    while 'num_requests_running{model_name="smollm2-135m-instruct"} 0.0' not in (
        http.get("/metrics").text
    ):
        assert time.monotonic() < deadline, "a request of a client that went away still runs"
        time.sleep(0.05)


def test_what_the_schema_allows_has_an_answer_of_the_schema(served: Served) -> None:
    schema = schemathesis.openapi.from_url(served.url + "/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 12
    for operation in operations:
        judge(operation, n_cases=20)


@pytest.mark.slow
def test_a_thousand_requests_of_the_schema_have_answers_of_the_schema(served: Served) -> None:
    schema = schemathesis.openapi.from_url(served.url + "/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    operations = [operation for operation in operations if operation.method == "post"]
    for operation in operations:
        judge(operation, n_cases=math.ceil(1000 / len(operations)))


def test_optional_fields_may_be_null_in_the_schema(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    null = {"type": "null"}
    n_optional = 0
    for body in document["components"]["schemas"].values():
        if body.get("additionalProperties") is not False:
            continue
        for name, field in body["properties"].items():
            if name not in body.get("required", ()):
                n_optional += 1
                is_any = set(field) <= {"title", "default", "description"}
                assert is_any or null in field.get("anyOf", ()), name
    assert n_optional > 100


def judge(operation: Any, n_cases: int) -> None:
    """Sends drawn requests of one operation."""

    @settings(
        max_examples=n_cases,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        if isinstance(case.body, dict):
            for name in {"max_tokens", "max_completion_tokens", "max_output_tokens"} & set(
                case.body
            ):
                case.body[name] = 2  # or small machines write for hours
        case.call_and_validate(checks=CHECKS, timeout=60)

    run()
