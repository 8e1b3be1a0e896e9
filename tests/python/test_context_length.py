"""Prompts that do not fit, and the truncation of conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import minilm
import pytest
from chat_templates import TOOLS_AND_THOUGHTS
from llamaherd import (
    BatchEngine,
    ChatOptions,
    ContextLengthError,
    EngineConfig,
    InvalidRequestError,
    SamplingParams,
)
from serving import Served, serve, wait_until

MAX_LEN = 256
LONG = "a b c " * 300
ASK = {"role": "user", "content": "Hi"}
SHORT = SamplingParams(max_tokens=4, temperature=0)


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[BatchEngine]:
    config = EngineConfig(n_ctx=512, max_len=MAX_LEN, n_threads=1, warmup=False)
    with BatchEngine(model_path, config) as engine:
        yield engine


@pytest.fixture(scope="module")
def served(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("context")
    embedder = minilm.write(minilm.fetch(), folder / "minilm.gguf")
    config = folder / "engine.toml"
    EngineConfig(n_ctx=512, max_len=MAX_LEN, warmup=False).to_file(config)
    options = ("--config", str(config), "--data-dir", str(folder / "data"))
    with serve(f"chat={model_path}", f"mini={embedder}", options=options) as served:
        yield served


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


def test_the_error_has_both_numbers(engine: BatchEngine) -> None:
    n_tokens = len(engine.tokenize(LONG))
    for prompt in (LONG, engine.tokenize(LONG)):
        with pytest.raises(ContextLengthError, match="maximum context length is 256") as caught:
            engine.submit(prompt, SHORT)
        assert isinstance(caught.value, InvalidRequestError)
        assert (caught.value.n_prompt_tokens, caught.value.max_len) == (n_tokens, MAX_LEN)
        assert str(n_tokens) in str(caught.value)
    with pytest.raises(ContextLengthError) as caught:  # not tokenized
        engine.submit("a" * 1_000_000, SHORT)
    assert MAX_LEN < caught.value.n_prompt_tokens <= 1_000_000
    # All of max_len, without room for output.
    with pytest.raises(ContextLengthError, match="output included"):
        engine.submit([1] * MAX_LEN, SHORT)
    assert engine.submit([1] * (MAX_LEN - 1), SHORT).result().token_ids


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        ("/v1/completions", {"prompt": LONG}, "prompt"),
        ("/v1/completions", {"prompt": [1] * 300}, "prompt"),
        ("/v1/completions", {"prompt": ["a", LONG]}, "prompt"),
        ("/v1/responses", {"input": LONG}, "input"),
        ("/v1/responses", {"input": LONG, "truncation": "auto"}, "input"),
        ("/v1/responses", {"input": "a" * 100_000}, "input"),
        ("/v1/embeddings", {"model": "mini", "input": ["a", LONG]}, "input"),
        ("/v1/rerank", {"model": "mini", "query": "a", "documents": ["b", LONG]}, "documents"),
        ("/v1/rerank", {"model": "mini", "query": LONG, "documents": ["b"]}, "query"),
        ("/v1/score", {"prompt": LONG, "continuations": ["a"]}, "prompt"),
        ("/v1/score", {"prompt": [1] * 300, "continuations": ["a"]}, "prompt"),
        ("/v1/score", {"prompt": "a", "continuations": ["b", "a" * 100_000]}, "prompt"),
    ],
)
def test_every_endpoint_says_it_alike(
    http: httpx.Client, path: str, fields: dict[str, Any], param: str, stream: bool
) -> None:
    if stream:
        if "completions" not in path and "responses" not in path:
            return
        fields = {**fields, "stream": True}
    answer = http.post(path, json=fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert error["type"] == "invalid_request_error"
    assert "maximum context length" in error["message"]
    assert error["n_ctx"] in (MAX_LEN, 512)
    assert error["n_prompt_tokens"] > error["n_ctx"]


def test_a_batch_line_says_it_too(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": LONG}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    files = {"file": ("in.jsonl", json.dumps(line).encode())}
    file = http.post("/v1/files", data={"purpose": "batch"}, files=files).json()
    options = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = http.post("/v1/batches", json={"input_file_id": file["id"], **options}).json()

    def now() -> Any:
        return http.get(f"/v1/batches/{batch['id']}").json()

    wait_until(lambda: now()["status"] == "completed", "the batch does not end")
    errors = http.get(f"/v1/files/{now()['error_file_id']}/content").text
    error = json.loads(errors)["response"]["body"]["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["n_ctx"] == MAX_LEN


def conversation(n_turns: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    for i in range(n_turns):
        messages.append({"role": "user", "content": f"Question {i}: " + "x y " * 8})
        messages.append({"role": "assistant", "content": f"Answer {i}."})
    return [*messages, ASK]


def test_old_turns_are_dropped_until_the_prompt_fits(engine: BatchEngine) -> None:
    messages = conversation(40)
    chat = ChatOptions(truncation="auto")
    with pytest.raises(ContextLengthError):
        engine.submit(messages, SHORT)
    previous = 0
    for max_tokens in (200, 100, 20):
        params = SamplingParams(max_tokens=max_tokens, temperature=0)
        n_prompt = engine.submit(messages, params, chat=chat).result().usage.prompt_tokens
        assert n_prompt <= MAX_LEN - min(max_tokens, MAX_LEN // 2)
        assert n_prompt >= previous
        previous = n_prompt
    # As the same conversation without its oldest turns, and no more of them than needed.
    texts = [
        engine.apply_chat_template([messages[0], *messages[i:]]).text
        for i in range(1, len(messages), 2)
    ]
    sizes = [len(engine.tokenize(text)) for text in texts]
    assert n_prompt == next(n for n in sizes if n <= MAX_LEN - 20)


def test_a_short_conversation_is_not_truncated(engine: BatchEngine) -> None:
    messages = conversation(2)
    expected = len(engine.tokenize(engine.apply_chat_template(messages).text))
    for max_tokens in (4, MAX_LEN):
        params = SamplingParams(max_tokens=max_tokens, temperature=0, stop=[" "])
        stream = engine.submit(messages, params, chat=ChatOptions(truncation="auto"))
        assert stream.result().usage.prompt_tokens == expected


def test_a_last_turn_that_does_not_fit_is_an_error(engine: BatchEngine) -> None:
    messages = [*conversation(4)[:-1], {"role": "user", "content": LONG}]
    with pytest.raises(ContextLengthError):
        engine.submit(messages, SHORT, chat=ChatOptions(truncation="auto"))
    with pytest.raises(InvalidRequestError, match="truncation must be one of auto, disabled"):
        ChatOptions(truncation="middle")


def test_truncation_with_tools(model_path: Path) -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = conversation(40)
    messages += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "20"},
    ]
    config = EngineConfig(
        n_ctx=512, max_len=MAX_LEN, n_threads=1, warmup=False, chat_template=TOOLS_AND_THOUGHTS
    )
    for choice in ("auto", "f"):
        chat = ChatOptions(
            tools=[{"type": "function", "function": function}],
            tool_choice=choice,
            truncation="auto",
        )
        with BatchEngine(model_path, config) as engine:
            result = engine.submit(messages, SHORT, chat=chat).result()
        assert not result.error
        assert MAX_LEN // 2 < result.usage.prompt_tokens <= MAX_LEN - SHORT.max_tokens  # type: ignore[operator]


def test_truncation_over_http(http: httpx.Client) -> None:
    messages = conversation(40)
    answer = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 2})
    assert answer.status_code == 400
    for path, fields in (
        ("/v1/chat/completions", {"messages": messages, "max_tokens": 2}),
        ("/v1/responses", {"input": messages, "max_output_tokens": 2}),
    ):
        answer = http.post(path, json={**fields, "truncation": "auto"})
        assert answer.status_code == 200, answer.text
    assert answer.json()["truncation"] == "auto"
