"""Fields of requests: OpenAI's, other servers', misspelt ones, null."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers
from fastapi import FastAPI
from llamaherd import EngineConfig
from llamaherd.server import ModelPool, ModelSpec, ServerSettings, create_app
from llamaherd.server.api import body_schema
from llamaherd.server.api.body_schema import Body, effectless, fields_of, strict_fields
from llamaherd.server.api.chat_messages import messages_of
from llamaherd.server.api.request_schemas import ChatRequest, CompletionRequest
from openai.types.chat import ChatCompletion, ParsedChatCompletion
from pydantic import ValidationError
from schema_samples import SchemaSamples
from starlette.testclient import TestClient

TEMPLATE = "{% for m in messages %}<|a|>{{ m.role }}{{ m.content }}{% endfor %}"
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO = [{"role": "user", "content": "a"}]
ASK: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "max_tokens": 2},
    COMPLETIONS: {"prompt": "a", "max_tokens": 2},
    RESPONSES: {"input": "a", "max_output_tokens": 2},
}
# What clients of OpenAI's API send by default, or may.
WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    CHAT: {
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "prediction": {"type": "content", "content": [{"type": "text", "text": "a"}]},
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "24h",
        "safety_identifier": "u",
        "service_tier": "auto",
        "store": True,
        "verbosity": "low",
    },
    RESPONSES: {
        "background": False,
        "client_metadata": {"a": "b"},
        "max_tool_calls": 3,
        "prompt_cache_key": "k",
        "safety_identifier": "u",
        "service_tier": "flex",
        "store": True,
        "stream_options": {"include_obfuscation": False},
        "text": {"verbosity": "high"},
    },
}
REFUSED: list[tuple[str, str, Any, str]] = [
    (CHAT, "audio", {"voice": "a", "format": "wav"}, "answers are text"),
    (CHAT, "functions", [{"name": "f"}], "use tools"),
    (CHAT, "function_call", "auto", "use tool_choice"),
    (CHAT, "web_search_options", {}, "a tool that searches"),
    (CHAT, "temprature", 1, "did you mean temperature?"),
    (CHAT, "max_completion_token", 1, "did you mean max_completion_tokens?"),
    (CHAT, "repeat_penality", 1, "did you mean repeat_penalty?"),
    (CHAT, "foo", 1, "is not supported"),
    (RESPONSES, "previous_response_id", "resp_1", "send the conversation as input"),
    (RESPONSES, "conversation", "c", "send the conversation as input"),
    ("/v1/embeddings", "inputs", "a", "did you mean input?"),
    ("/tokenize", "promt", "a", "did you mean prompt?"),
]
ANSWER: dict[str, Any] = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "reasoning_content": "I think.",
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "1",
                        "type": "function",
                        "function": {
                            "name": "f",
                            "arguments": '{"a": 1}',
                            "parsed_arguments": {"a": 1},
                        },
                    }
                ],
                "parsed": {"a": 1},
            },
        }
    ],
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return app_of(tmp_path_factory.mktemp("fields"), ServerSettings())


def app_of(folder: Path, settings: ServerSettings) -> FastAPI:
    path = tiny_tokenizers.write(tiny_tokenizers.bpe(), folder / "m.gguf")
    config = EngineConfig(n_ctx=256, max_seqs=2, n_threads=1, warmup=False, chat_template=TEMPLATE)
    return create_app(ModelPool([ModelSpec("m", str(path), config)]), settings)


@pytest.fixture(scope="module")
def http(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as http:
        yield http


def error_of(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.mark.parametrize("path", list(WITHOUT_EFFECT))
def test_fields_without_effect_are_accepted_and_noted_once(
    http: TestClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    body_schema._note.cache_clear()
    body = {**ASK[path], **WITHOUT_EFFECT[path]}
    with caplog.at_level(logging.DEBUG, "llamaherd.server"):
        for _ in range(2):
            answer = http.post(path, json=body)
            assert answer.status_code == 200, answer.text
    notes = [r.getMessage() for r in caplog.records if "without effect" in r.getMessage()]
    assert len(set(notes)) == len(notes)
    for name in set(WITHOUT_EFFECT[path]) - {"text"}:
        assert any(note.startswith(f"field {name} of ") for note in notes), name


def test_fields_without_effect_change_no_token(http: TestClient) -> None:
    ask = {**ASK[CHAT], "temperature": 0, "ignore_eos": True}
    plain = http.post(CHAT, json=ask).json()["choices"]
    assert http.post(CHAT, json={**ask, **WITHOUT_EFFECT[CHAT]}).json()["choices"] == plain


def test_a_strict_server_refuses_them(tmp_path: Path) -> None:
    app = app_of(tmp_path, ServerSettings(strict_fields=True))
    with TestClient(app, "http://127.0.0.1") as http:
        for path, fields in WITHOUT_EFFECT.items():
            assert http.post(path, json=ASK[path]).status_code == 200
            for name, value in fields.items():
                error = error_of(http.post(path, json={**ASK[path], name: value}))
                assert error["code"] == "unsupported_field"
                assert error["param"].partition(".")[0] == name
                assert "--strict-fields" in error["message"]
            nothing = dict.fromkeys(fields)
            assert http.post(path, json={**ASK[path], **nothing}).status_code == 200


@pytest.mark.parametrize(("path", "name", "value", "expected"), REFUSED)
def test_other_fields_are_refused_by_name(
    http: TestClient, path: str, name: str, value: Any, expected: str
) -> None:
    body = {**ASK.get(path, {}), name: value}
    error = error_of(http.post(path, json=body))
    assert error["message"].startswith(f"{name} is not supported")
    assert expected in error["message"]
    assert (error["param"], error["code"]) == (name, "unsupported_field")
    assert http.post(path, json={**body, name: None}).json().get("error") != error


def test_fields_of_messages_are_refused_by_their_place(http: TestClient) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for message, param in (
        ({**HELLO[0], "mood": 1}, "messages[1].mood"),
        (
            {**HELLO[0], "function_call": {"name": "f", "arguments": ""}},
            "messages[1].function_call",
        ),
        ({**HELLO[0], "content": [{"type": "text", "txt": ""}]}, "messages[1].content[0].txt"),
        (
            {"role": "assistant", "tool_calls": [{**call, "functions": {}}]},
            "messages[1].tool_calls[0].functions",
        ),
    ):
        error = error_of(http.post(CHAT, json={"messages": [*HELLO, message]}))
        assert error["param"] == param
        assert error["message"].startswith(f"{param} is not supported")


def test_null_is_absent(http: TestClient, app: FastAPI) -> None:
    document = app.openapi()
    for path, body in ASK.items():
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        fields = SchemaSamples(document).resolved(schema["schema"])["properties"]
        nulls = {**dict.fromkeys(fields), **body}
        answer = http.post(path, json={**nulls, "temperature": 0})
        assert answer.status_code == 200, answer.text
        plain = http.post(path, json={**body, "temperature": 0}).json()
        for name in ("choices", "max_output_tokens", "instructions", "metadata"):
            assert answer.json().get(name) == plain.get(name)


def test_null_is_absent_on_every_endpoint(http: TestClient, app: FastAPI) -> None:
    document = app.openapi()
    samples = SchemaSamples(document)
    n_paths = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        n_paths += 1
        schema = samples.resolved(content["application/json"]["schema"])
        body = {**samples.smallest(schema), **ASK.get(path, {})}
        nulls = {**dict.fromkeys(schema["properties"]), **body}
        plain, answer = http.post(path, json=body), http.post(path, json=nulls)
        assert answer.status_code == plain.status_code, answer.text
        assert answer.json().get("error") == plain.json().get("error")
    assert n_paths >= 9


def test_a_limit_of_null_is_the_default(http: TestClient) -> None:
    for absent in ({}, {"max_tokens": None}):
        answer = http.post(COMPLETIONS, json={"prompt": "a", "ignore_eos": True, **absent})
        assert answer.json()["usage"]["completion_tokens"] == 16


def test_null_within_free_json_is_kept() -> None:
    parameters = {"properties": {"a": {"default": None, "enum": [None, 1]}}, "x": None}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = ChatRequest.model_validate({"messages": HELLO, "tools": [tool], "stop": None})
    assert body.tools
    assert body.tools[0].model_dump(exclude_none=True)["function"]["parameters"] == parameters
    kwargs = {"messages": HELLO, "chat_template_kwargs": {"a": None}}
    assert ChatRequest.model_validate(kwargs).chat_template_kwargs == {"a": None}


def test_null_is_no_item_and_no_required_field(http: TestClient) -> None:
    for body, expected in (
        ({"messages": None}, "messages is required"),
        ({"messages": [None]}, "messages[0] must be an object; got null"),
        ({"messages": HELLO, "stop": [None]}, "stop[0] must be a valid string; got null"),
        ({"messages": [{"role": None}]}, "messages[0].role is required"),
    ):
        assert error_of(http.post(CHAT, json=body))["message"].startswith(expected)


def all_bodies(model: type[Body] = Body) -> Iterator[type[Body]]:
    for inner in model.__subclasses__():
        yield inner
        yield from all_bodies(inner)


@pytest.mark.parametrize("model", list(all_bodies()), ids=lambda model: model.__name__)
def test_every_schema_keeps_to_its_tables(model: type[Body]) -> None:
    known = fields_of(model)
    for name, field in known.items():
        assert effectless(field) is None or not field.is_required(), name
        assert effectless(field) is None or field.default is None, name
    assert not set(model.refused) & set(known)
    assert set(model.other_names.values()) <= set(known)
    assert not set(model.other_names) & (set(known) | set(model.refused))
    for name, instead in model.refused.items():
        with pytest.raises(ValidationError, match="is not supported") as refused:
            model.model_validate({name: 1})
        assert instead in str(refused.value)


def test_names_of_other_servers(http: TestClient) -> None:
    body = CompletionRequest.model_validate(
        {"prompt": "a", "cache_prompt": False, "repeat_penalty": 1.5, "guided_choice": ["a", "b"]}
    )
    assert (body.cache, body.repetition_penalty, body.choice) == (False, 1.5, ["a", "b"])
    both = {**ASK[CHAT], "repeat_penalty": 1.5, "repetition_penalty": 1.5}
    assert http.post(CHAT, json=both).status_code == 200
    error = error_of(http.post(CHAT, json={**both, "repeat_penalty": 1.2}))
    assert "together" in error["message"]


@pytest.mark.parametrize("kind", [ChatCompletion, ParsedChatCompletion])
def test_an_answer_is_a_message(http: TestClient, kind: Any) -> None:
    message = kind.model_validate(ANSWER).choices[0].message
    result = {"role": "tool", "tool_call_id": "1", "content": "b"}
    for sent in (message.model_dump(), message.model_dump(exclude_none=True), message.to_dict()):
        body = {**ASK[CHAT], "messages": [*HELLO, sent, result]}
        answer = http.post(CHAT, content=json.dumps(body))
        assert answer.status_code == 200, answer.text
        first = messages_of(ChatRequest.model_validate(body).messages)[1]
        assert first == {
            "role": "assistant",
            "content": "",
            "reasoning_content": "I think.",
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a": 1}'},
                }
            ],
        }


def test_reasoning_and_refusals_have_two_forms() -> None:
    def messages(**fields: Any) -> list[dict[str, Any]]:
        message = {"role": "assistant", **fields}
        return messages_of(ChatRequest.model_validate({"messages": [message]}).messages)

    plain = {"role": "assistant", "content": "a"}
    assert messages(content="a", reasoning="r") == [{**plain, "reasoning_content": "r"}]
    both = {"reasoning": "r", "reasoning_content": "s"}
    assert messages(content="a", **both) == [{**plain, "reasoning_content": "s"}]
    for given in (
        {"refusal": "a"},
        {"content": [{"type": "refusal", "refusal": "a"}]},
        {"content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {"content": "a", "annotations": [{"type": "url_citation"}], "cache_control": {}},
    ):
        assert messages(**given) == [plain]


@pytest.mark.parametrize(
    ("body", "same"),
    [
        ({"top_p": 0, "temperature": 1}, {"temperature": 0}),
        ({"top_p": 0, "temperature": 1, "stream": False, "seed": -1}, {"temperature": 0}),
        ({"temperature": 0, "top_k": -1}, {"temperature": 0}),
        ({"temperature": 0, "stop": ""}, {"temperature": 0}),
        ({"temperature": 0, "stop": ["", ""]}, {"temperature": 0}),
    ],
)
def test_values_that_mean_none(
    http: TestClient, body: dict[str, Any], same: dict[str, Any]
) -> None:
    common = {"messages": HELLO, "max_tokens": 8, "ignore_eos": True}
    wanted = http.post(CHAT, json={**common, **same}).json()["choices"]
    answer = http.post(CHAT, json={**common, **body})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"] == wanted


def test_no_limit_of_tokens_is_the_context(http: TestClient) -> None:
    for path, name in (
        (CHAT, "max_tokens"),
        (CHAT, "max_completion_tokens"),
        (COMPLETIONS, "max_tokens"),
        (RESPONSES, "max_output_tokens"),
    ):
        body = {**ASK[path], "max_tokens": None, name: -1}
        if path == RESPONSES:
            del body["max_tokens"]
        else:
            body["ignore_eos"] = True
        usage = http.post(path, json=body).json()["usage"]
        if path != RESPONSES:
            assert usage["total_tokens"] == 256, path
    equal = {**ASK[CHAT], "max_completion_tokens": 2}
    assert http.post(CHAT, json=equal).json()["usage"]["completion_tokens"] <= 2


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('"Hi"', "the body must be an object; got"),
        ("[1]", "the body must be an object; got an array"),
        ("null", "the body must be an object; got null"),
        ("", "the body is required"),
        ("{", "the body is not valid JSON"),
        ("a=b", "the body is not valid JSON"),
    ],
)
def test_a_body_that_is_no_object(http: TestClient, body: str, expected: str) -> None:
    for path in ASK:
        assert error_of(http.post(path, content=body))["message"].startswith(expected)


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json; a=b"]
)
def test_json_needs_no_content_type_unless_a_browser_sends_it(
    http: TestClient, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    content = json.dumps(ASK[CHAT]).encode()
    assert http.post(CHAT, content=content, headers=headers).status_code == 200
    browsers = [
        {"origin": "http://127.0.0.1"},
        {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin"},
    ]
    for browser in browsers:
        answer = http.post(CHAT, content=content, headers={**headers, **browser})
        if kind == "application/json; a=b":
            assert answer.status_code == 200
        else:
            assert "content-type: application/json" in error_of(answer)["message"]
    for browser in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = http.post(CHAT, content=content, headers={**headers, **browser})
        assert answer.status_code == 403
    assert http.post("/v1/batches/x/cancel", headers=browsers[0]).status_code != 200


@pytest.mark.parametrize(
    ("path", "name", "value", "expected"),
    [
        (CHAT, "temperature", -1, "temperature must be in [0, 100]; got -1"),
        (CHAT, "top_k", -2, "top_k must be >= 0; got -2"),
        (CHAT, "min_tokens", 9, "min_tokens must be <= max_tokens"),
        (CHAT, "user", "u" * 300, "tenant must have at most 256 bytes; got 300"),
        (CHAT, "top_logprobs", 1, "top_logprobs requires logprobs: true"),
        (RESPONSES, "max_output_tokens", 0, "max_output_tokens must be in [1, 2**31), or -1"),
        (COMPLETIONS, "logit_bias", {"x": 1}, "logit_bias.x must be a valid integer"),
        (COMPLETIONS, "best_of", 0, "best_of must be in [n, 128]"),
    ],
)
def test_errors_name_their_field(
    http: TestClient, path: str, name: str, value: Any, expected: str
) -> None:
    error = error_of(http.post(path, json={**ASK[path], name: value}))
    assert error["message"].startswith(expected)
    assert error["param"].partition(".")[0] == name


def test_a_schema_may_be_that_of_a_json_object(http: TestClient) -> None:
    schema = {"const": {"a": 1}}
    for response_format in (
        {"type": "json_object", "schema": schema},
        {"type": "json_schema", "json_schema": {"schema": schema}},
    ):
        body = {**ASK[CHAT], "max_tokens": 60, "response_format": response_format}
        content = http.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
        assert json.loads(content) == {"a": 1}


def test_other_names_have_the_same_bounds(http: TestClient) -> None:
    for name, value in (
        ("guided_regex", "a" * (1 << 17)),
        ("guided_grammar", "a" * (1 << 17)),
        ("guided_choice", ["a" * (1 << 16), "b" * (1 << 16)]),
    ):
        error = error_of(http.post(CHAT, json={**ASK[CHAT], name: value}))
        assert "(limit max_grammar_kib)" in error["message"]


def test_strictness_is_that_of_the_request() -> None:
    assert strict_fields.get() is False
