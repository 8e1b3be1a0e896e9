"""The official client's calls, of every endpoint, streamed and not."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import minilm
import numpy as np
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from serving import Served, serve

QUESTION: Any = [{"role": "user", "content": "Name three colours."}]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    embedder = minilm.write(minilm.fetch(), tmp_path_factory.mktemp("m") / "minilm.gguf")
    with serve(f"chat={model_path}", f"mini={embedder}", options=("--n-ctx", "8192")) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


def chat(client: OpenAI, **options: Any) -> Any:
    options = {"temperature": 0, "max_tokens": 8, "messages": QUESTION, **options}
    return client.chat.completions.create(model="chat", **options)


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["chat", "mini"]
    assert client.models.retrieve("chat").id == "chat"


def test_a_chat_answer_and_its_stream_are_the_same(client: OpenAI) -> None:
    whole = chat(client)
    assert whole.usage.completion_tokens == 8
    assert whole.usage.prompt_tokens > 8
    (choice,) = whole.choices
    assert (choice.finish_reason, choice.message.role) == ("length", "assistant")
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == choice.message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 8
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert len({c.id for c in chunks}) == 1


def test_several_choices_are_told_apart(client: OpenAI) -> None:
    options: dict[str, Any] = {"n": 3, "seed": 5, "temperature": 1}
    whole = chat(client, **options)
    texts = [choice.message.content for choice in whole.choices]
    streamed = ["", "", ""]
    for chunk in chat(client, stream=True, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    assert len(set(texts)) == 3


def test_log_probabilities(client: OpenAI) -> None:
    (choice,) = chat(client, logprobs=True, top_logprobs=3).choices
    entries = choice.logprobs.content
    assert len(entries) == 8
    assert "".join(entry.token for entry in entries) == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs)
    chunks = list(chat(client, logprobs=True, top_logprobs=3, stream=True))
    streamed = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]


def test_stop_bias_and_seed(client: OpenAI, http: httpx.Client) -> None:
    text = chat(client, max_tokens=16).choices[0].message.content
    stop = text[4:7]
    stopped = chat(client, max_tokens=16, stop=[stop]).choices[0]
    assert stopped.message.content == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"
    (token,) = http.post("/tokenize", json={"prompt": " yes"}).json()["tokens"]
    biased = chat(client, logit_bias={str(token): 100}, max_tokens=2).choices[0]
    assert biased.message.content == " yes yes"
    drawn = [chat(client, temperature=1, seed=9).choices[0].message.content for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA}},
        {"type": "json_object"},
    ],
)
def test_json_answers(client: OpenAI, response_format: Any) -> None:
    options = {"max_tokens": 60, "temperature": 1, "seed": 3, "response_format": response_format}
    if response_format["type"] == "json_object":
        options["extra_body"] = {"logit_bias": {"109": 8}}  # a closing brace: it must end
    (choice,) = chat(client, **options).choices
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    if response_format["type"] == "json_schema":
        assert 1 <= json.loads(choice.message.content)["n"] <= 9


def test_extensions(client: OpenAI) -> None:
    extra = {"grammar": 'root ::= "yes" | "no"', "priority": 3, "cache_salt": "s", "top_k": 5}
    assert chat(client, extra_body=extra).choices[0].message.content in ("yes", "no")
    extra = {"choice": ["left", "right"], "cache": False, "deadline_s": 60}
    assert chat(client, extra_body=extra).choices[0].message.content in ("left", "right")


def test_a_deadline_ends_an_answer_with_what_it_has(client: OpenAI) -> None:
    extra = {"deadline_s": 0.3, "ignore_eos": True}
    choice = chat(client, max_tokens=4000, extra_body=extra).choices[0]
    assert choice.finish_reason == "deadline"


def test_completions_of_texts_and_tokens(client: OpenAI, http: httpx.Client) -> None:
    ids = http.post("/tokenize", json={"prompt": "The sun"}).json()["tokens"]
    options: dict[str, Any] = {"model": "chat", "max_tokens": 5, "temperature": 0}
    one = client.completions.create(prompt="The sun", **options)
    same = client.completions.create(prompt=ids, **options)
    assert one.choices[0].text == same.choices[0].text
    both = client.completions.create(prompt=["The moon", "The sun"], n=2, **options)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[2].text == both.choices[3].text == one.choices[0].text
    texts = ["", "", "", ""]
    for chunk in client.completions.create(
        prompt=["The moon", "The sun"], n=2, stream=True, **options
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in both.choices]


def test_an_echoed_prompt_is_scored(client: OpenAI) -> None:
    done = client.completions.create(
        model="chat", prompt="The capital of France is Paris", max_tokens=0, echo=True, logprobs=2
    )
    (choice,) = done.choices
    assert choice.text == "The capital of France is Paris"
    logprobs: Any = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    assert [choice.text[i:][:1] for i in logprobs.text_offset] == [t[:1] for t in logprobs.tokens]


def test_embeddings(client: OpenAI) -> None:
    texts = ["a cat", "a kitten", "the stock market"]
    made = client.embeddings.create(model="mini", input=texts)
    vectors = np.array([entry.embedding for entry in made.data])
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert made.usage.prompt_tokens > 6
    short = client.embeddings.create(
        model="mini", input="a cat", dimensions=64, encoding_format="base64"
    )
    raw: Any = short.data[0].embedding
    numbers = np.frombuffer(base64.b64decode(raw), "<f4")
    cut = vectors[0][:64] / np.linalg.norm(vectors[0][:64])
    assert np.allclose(numbers, cut, atol=1e-5)


def test_embeddings_of_token_ids(client: OpenAI, served: Served) -> None:
    """A list of ints, or of lists of them, as the official client and LangChain send them."""
    vocabulary = {token: i for i, token in enumerate(minilm.fetch().vocabulary)}
    ids = [vocabulary[token] for token in ("[CLS]", "a", "cat", "[SEP]")]
    expected = client.embeddings.create(model="mini", input="a cat").data[0].embedding
    for given in (ids, [ids], [ids, ids[:2]]):
        made = client.embeddings.create(model="mini", input=given)
        assert np.allclose(made.data[0].embedding, expected, atol=5e-3)
    assert made.usage.prompt_tokens == 6
    short = client.embeddings.create(
        model="mini", input=[ids], dimensions=64, encoding_format="float"
    )
    assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1, abs=1e-5)
    # The default of the official client is base64.
    raw = httpx.post(
        f"{served.url}/v1/embeddings",
        json={"model": "mini", "input": [ids], "encoding_format": "base64", "dimensions": 384},
    ).json()["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(raw), "<f4"), expected, atol=5e-3)
    with pytest.raises(BadRequestError, match="must be in"):
        client.embeddings.create(model="mini", input=[10**6])


def test_rerank(http: httpx.Client) -> None:
    body = {
        "model": "mini",
        "query": "What eats mice?",
        "documents": ["Stocks fell.", "Cats eat mice.", "It rains."],
        "top_n": 2,
        "return_documents": True,
    }
    results = http.post("/v1/rerank", json=body).json()["results"]
    assert [results[0]["index"], len(results)] == [1, 2]
    assert results[0]["document"] == {"text": "Cats eat mice."}


def test_tokens_there_and_back(http: httpx.Client) -> None:
    made = http.post("/tokenize", json={"prompt": "Grüße, 世界"}).json()
    assert made["count"] == len(made["tokens"])
    back = http.post("/detokenize", json={"tokens": made["tokens"]}).json()
    assert back == {"prompt": "Grüße, 世界"}
    messages = http.post("/tokenize", json={"messages": QUESTION}).json()
    assert messages["count"] > 8


def test_score(http: httpx.Client) -> None:
    body = {"prompt": "The capital of France is", "continuations": [" Paris", " Rome"]}
    results = http.post("/v1/score", json=body).json()["results"]
    assert results[0]["logprob"] > results[1]["logprob"]
    assert results[0]["is_greedy"]


def test_responses(client: OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "chat",
        "instructions": "Take your time.",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Tell a story."}]}],
        "max_output_tokens": 6,
        "temperature": 0,
    }
    whole = client.responses.create(**options)
    assert whole.output_text
    assert whole.status == "incomplete"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 6
    events = list(client.responses.create(stream=True, **options))
    assert events[0].type == "response.created"
    last: Any = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    formatted = client.responses.create(
        model="chat",
        input="A number.",
        text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    )
    assert 1 <= json.loads(formatted.output_text)["n"] <= 9


def test_the_async_client(served: Served) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=served.url + "/v1", api_key="none") as client:
            calls = [chat_async(client, i) for i in range(6)]
            texts = await asyncio.gather(*calls)
            assert len(set(texts[:3])) == 1
            assert texts[:3] == texts[3:]
            vectors = await client.embeddings.create(model="mini", input=["x"])
            assert len(vectors.data) == 1
            response: Any = await client.responses.create(
                model="chat", input="Hi", max_output_tokens=4
            )
            assert response.output_text
            done = await client.completions.create(model="chat", prompt="One", max_tokens=2)
            assert done.choices[0].finish_reason == "length"

    async def chat_async(client: AsyncOpenAI, i: int) -> str:
        stream = await client.chat.completions.create(
            model="chat", messages=QUESTION, temperature=0, max_tokens=8, stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    asyncio.run(run())


def test_health_readiness_and_metrics(http: httpx.Client, client: OpenAI) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ok"}
    list(chat(client, stream=True))
    figures = http.get("/metrics").text
    for name in (
        'llamaherd_time_to_first_token_seconds_count{model_name="chat"}',
        'llamaherd_inter_token_latency_seconds_count{model_name="chat"}',
        'llamaherd_e2e_request_latency_seconds_count{model_name="chat"}',
        'llamaherd_generation_tokens_total{model_name="chat"}',
        'llamaherd_step_seconds_total{model_name="chat",part="decode"}',
        'llamaherd_requests_without_token{priority="0"} 0.0',
        'llamaherd_http_requests_total{path="/v1/chat/completions",status="200"}',
    ):
        assert name in figures, name
    assert 'llamaherd_requests_without_token{priority="0"} 0.0' in figures


def test_log_lines_are_json_with_the_requests_id_and_no_prompt(
    served: Served, http: httpx.Client
) -> None:
    body = {"messages": [{"role": "user", "content": "a secret"}], "max_tokens": 1}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-7"})
    assert answer.headers["x-request-id"] == "mine-7"
    line = json.loads(served.logged("mine-7"))
    assert all(json.loads(line) for line in list(served.lines))
    assert (line["path"], line["status"]) == ("/v1/chat/completions", 200)
    assert "a secret" not in "".join(served.lines)
