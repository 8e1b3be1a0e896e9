"""Fuzz: bodies of every route, of any shape."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import tiny_tokenizers
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import EngineConfig
from llamaherd.server import ModelPool, ModelSpec, create_app
from starlette.testclient import TestClient
from tiny_tokenizers import FIM, FIM_REPOSITORY

TEMPLATE = "{% for m in messages %}<|a|>{{ m.role }}{{ m.content }}{% endfor %}{{ tools }}"
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["b", 1]}}, "required": ["a"]}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
CHAT = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "ab"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "b"},
    ],
    "max_tokens": 3,
    "temperature": 0.5,
    "logit_bias": {"30": 1},
    "stop": ["x"],
    "stop_token_ids": [1],
    "n": 2,
    "logprobs": True,
    "top_logprobs": 2,
    "stream": False,
    "user": "u",
    "cache_salt": "s",
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "none"}),
    (
        "/v1/chat/completions",
        {
            **CHAT,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            },
        },
    ),
    ("/v1/completions", {"prompt": ["a", "ab"], "max_tokens": 2, "echo": True, "logprobs": 1}),
    ("/v1/completions", {"prompt": [[30, 31], [32]], "max_tokens": 2, "n": 2, "regex": "a|b"}),
    ("/v1/completions", {"prompt": "a", "suffix": "b", "max_tokens": 2}),
    (
        "/infill",
        {
            "input_prefix": "a",
            "input_suffix": "b",
            "prompt": "ab",
            "input_extra": [{"filename": "a.py", "text": "a", "time": 1}],
            "n_predict": 2,
            "n_indent": 1,
            "t_max_predict_ms": 1000,
            "samplers": ["top_k", "top_p", "infill"],
            "stop": ["x"],
            "response_fields": ["content", "timings/prompt_n"],
            "lora": [{"id": 0, "scale": 0}],
        },
    ),
    ("/v1/responses", {"input": [{"role": "user", "content": "a"}], "max_output_tokens": 2}),
    (
        "/v1/responses",
        {
            "input": [
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "x"},
            ],
            "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
            "max_output_tokens": 2,
            "metadata": {"a": "b"},
        },
    ),
    ("/v1/embeddings", {"input": ["a", "b"], "dimensions": 8, "encoding_format": "base64"}),
    ("/v1/embeddings", {"input": [[30, 31], [32]], "pooling": "mean"}),
    ("/v1/rerank", {"query": "a", "documents": ["a", "b"], "top_n": 1, "return_documents": True}),
    ("/v1/score", {"prompt": "a", "continuations": ["b", "ab"]}),
    ("/tokenize", {"messages": [{"role": "user", "content": "a"}]}),
    ("/tokenize", {"prompt": "<|a|>a"}),
    ("/detokenize", {"tokens": [1, 30, 31], "special": True}),
]
# JSON, so that what json.dumps() does not write is among it.
ODD = [
    *("null", "true", "0", "-1", "1.5", "1e999", "-1e999", "NaN", "1" * 5000, "9" * 19, '""'),
    *('"\\ud800"', '"\\u0000"', '"<|a|>"', '"a\\nb"', "[]", "{}", "[[]]", '[""]', '{"": 1}'),
    *('{"a": 1, "a": 2}', "[" * 500 + "]" * 500, '"' + "[" * 3000 + '"', "[" * 100_000),
    *('"' + "ab" * 5000 + '"', "[" + "1," * 5000 + "1]", "{" + '"type": "text"' + "}"),
]
MARK = "\x01"
# What pydantic puts into the location of an error beside names and indexes.
INTERNAL = re.compile(r"<|\[key\]|constrained|function-|union|nullable")


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = tiny_tokenizers.write(
        tiny_tokenizers.code(*FIM, *FIM_REPOSITORY), tmp_path_factory.mktemp("bodies") / "m.gguf"
    )
    config = EngineConfig(n_ctx=1024, max_seqs=2, n_threads=1, warmup=False, chat_template=TEMPLATE)
    app = create_app(ModelPool([ModelSpec("m", str(path), config)]))
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as http:
        yield http


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON value are."""
    if path:
        yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str]:
    """A path, and a body of which some values are odd."""
    path, body = draw(st.sampled_from(BODIES))
    body = copy.deepcopy(body)
    texts = []
    for i in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(list(places(body))))
        at: Any = body
        for key in place[:-1]:
            at = at[key]
        key = place[-1]
        if isinstance(at, dict) and draw(st.integers(0, 4)) == 0:
            key = draw(st.sampled_from(["grammar", "choice", "best_of", "\u00e9", "type"]))
        at[key] = f"{MARK}{i}{MARK}"
        texts.append(draw(st.sampled_from(ODD) | st.text(max_size=8).map(json.dumps)))
    text = json.dumps(body)
    for i, odd in enumerate(texts):
        text = text.replace(json.dumps(f"{MARK}{i}{MARK}"), odd)
    return path, text


@fuzz
@given(request=requests())
def test_every_body_has_an_answer_that_is_no_error_of_the_server(
    http: TestClient, request: tuple[str, str]
) -> None:
    path, body = request
    answer = http.post(path, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert 0 < len(error["message"]) < 2000
        assert not INTERNAL.search(error["param"] or ""), error


def test_bodies_without_odd_values_are_answered(http: TestClient) -> None:
    for path, body in BODIES:
        answer = http.post(path, json=body)
        lacks_pooling = path in ("/v1/embeddings", "/v1/rerank") and "pooling" not in body
        assert answer.status_code == (400 if lacks_pooling else 200), answer.text
