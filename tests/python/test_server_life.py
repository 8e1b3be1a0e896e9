"""Clients that go away, servers that stop, models that come and go, keys."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import httpx
import minilm
import numpy as np
import pytest
import tiny_models
from chat_templates import TOOLS_AND_THOUGHTS
from llamaherd import Embedder, EngineConfig, InvalidRequestError
from llamaherd.server import ModelPool, ModelSpec, ServerSettings, vectors
from llamaherd.server.errors import ApiError
from llamaherd.server.keys import ApiKey, KeyRing, digest_of, new_key
from openai import OpenAI
from serving import Served, figure, serve, wait_until
from test_chat import CALLS, THOUGHTS, WEATHER

ENDLESS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count."}],
    "max_tokens": 3000,
    "ignore_eos": True,
}
ASK: dict[str, Any] = {**ENDLESS, "max_tokens": 3}


@pytest.fixture(scope="module")
def served(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = tmp_path_factory.mktemp("config") / "engine.toml"
    EngineConfig(chat_template=TOOLS_AND_THOUGHTS, n_ctx=16384).to_file(config)
    with serve(f"chat={model_path}", options=("--config", str(config))) as served:
        yield served


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


def n_running(http: httpx.Client) -> float:
    return figure(http, "num_requests_running") + figure(http, "num_requests_waiting")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_request(http: httpx.Client, stream: bool) -> None:
    body = {**ENDLESS, "stream": stream}
    with httpx.Client(base_url=http.base_url, timeout=1.0) as other:
        if stream:
            with other.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(answer.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                other.post("/v1/chat/completions", json=body)
    wait_until(lambda: n_running(http) == 0, "the request still runs")
    assert figure(http, "requests_without_token") == 0


def test_a_client_that_goes_away_before_its_first_token_ends_its_request(
    model_path: Path,
) -> None:
    options = ("--max-seqs", "1", "--n-ctx", "4096")
    with (
        serve(model_path, options=options) as served,
        httpx.Client(base_url=served.url, timeout=60) as http,
    ):
        body = {**ENDLESS, "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body) as running:
            pieces = running.iter_bytes()
            next(pieces)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(served.url + "/v1/chat/completions", json=body, timeout=0.5)
            wait_until(lambda: figure(http, "num_requests_waiting") == 0, "it still waits")
            assert figure(http, "num_requests_running") == 1


def test_a_client_that_goes_away_ends_its_embeddings(tmp_path: Path) -> None:
    model = minilm.write(minilm.fetch(), tmp_path / "mini.gguf")
    with serve(model) as served, httpx.Client(base_url=served.url, timeout=60) as http:
        assert http.post("/v1/embeddings", json={"input": "x"}).status_code == 200
        texts = ["some words " * 60] * 5000
        bodies = {"embeddings": {"input": texts}, "rerank": {"query": "x", "documents": texts}}
        for name, body in bodies.items():
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{served.url}/v1/{name}", json=body, timeout=2)
            served.logged(f'"path": "/v1/{name}", "status": 503')
        assert http.post("/v1/embeddings", json={"input": "x"}).status_code == 200


def test_vectors_come_in_pieces_until_the_client_is_gone() -> None:
    gone, asked = Event(), []

    def embed(texts: list[str], **_: Any) -> np.ndarray[Any, Any]:
        asked.append(len(texts))
        if len(asked) == 3:
            gone.set()
        return np.zeros((len(texts), 2), np.float32)

    embedder: Any = SimpleNamespace(embed=embed)
    texts = ["x" * 10_000] * 8 + ["y" * 100_000, ""]
    made = vectors.embed(embedder, texts, truncate=False, gone=Event())
    assert made.shape == (10, 2)
    assert asked == [3, 3, 2, 1, 1]
    asked.clear()
    gone.clear()
    with pytest.raises(ApiError, match="cancelled"):
        vectors.embed(embedder, texts, truncate=False, gone=gone)
    assert asked == [3, 3, 2]


def test_a_text_that_breaks_a_rule_is_named_by_its_place_among_all(tmp_path: Path) -> None:
    model = minilm.write(minilm.fetch(), tmp_path / "mini.gguf")
    embedder = Embedder(model, progress=False)
    texts = [str(i) + " " * 3000 for i in range(60)] + ["word " * 3000]
    with pytest.raises(InvalidRequestError, match="text 60") as alone:
        embedder.embed(texts)
    with pytest.raises(InvalidRequestError) as in_pieces:
        vectors.embed(embedder, texts, truncate=False, gone=Event())
    assert str(in_pieces.value) == str(alone.value)
    ranked = vectors.rerank(embedder, "word", texts, truncate=True, gone=Event())
    assert [entry.score for entry in ranked] == sorted((e.score for e in ranked), reverse=True)
    scores = {entry.index: entry.score for entry in ranked}
    expected = embedder.rerank("word", texts, truncate=True)
    assert scores == pytest.approx({e.index: e.score for e in expected}, abs=1e-3)


def test_a_client_that_goes_away_ends_its_scores(served: Served, http: httpx.Client) -> None:
    body = {"prompt": "One", "continuations": [f" {i}" * 500 for i in range(300)]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(served.url + "/v1/score", json=body, timeout=1)
    served.logged('"path": "/v1/score", "status": 503')
    assert n_running(http) == 0


def test_tool_calls_over_http(served: Served) -> None:
    with OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        options: dict[str, Any] = {
            "model": "chat",
            "messages": CALLS,
            "tools": [WEATHER],
            "temperature": 0,
            "max_tokens": 120,
        }
        whole = client.chat.completions.create(**options)
        (choice,) = whole.choices
        assert choice.finish_reason == "tool_calls"
        (made,) = choice.message.tool_calls or ()
        assert made.type == "function"
        assert json.loads(made.function.arguments)["city"] == "Paris"
        name, arguments, reason = "", "", None
        for chunk in client.chat.completions.create(stream=True, **options):
            for call in chunk.choices[0].delta.tool_calls or ():
                name += call.function.name or "" if call.function else ""
                arguments += call.function.arguments or "" if call.function else ""
            reason = chunk.choices[0].finish_reason or reason
        assert (name, arguments, reason) == (
            "get_weather",
            made.function.arguments,
            "tool_calls",
        )


def test_tool_calls_of_responses(served: Served) -> None:
    with OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        items: list[Any] = []
        for message in CALLS:
            items += [
                {"type": "function_call", "call_id": call["id"], **call["function"]}
                for call in message.get("tool_calls", ())
            ]
            if message["role"] == "user":
                items.append(message)
        options: dict[str, Any] = {
            "model": "chat",
            "input": items,
            "tools": [{"type": "function", **WEATHER["function"]}],
            "temperature": 0,
            "max_output_tokens": 120,
        }
        whole = client.responses.create(**options)
        (item,) = whole.output
        assert item.type == "function_call"
        assert json.loads(item.arguments)["city"] == "Paris"
        events = list(client.responses.create(stream=True, **options))
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == item.arguments
        last: Any = events[-1]
        assert last.type == "response.completed"
        assert last.response.output[0].arguments == item.arguments


def test_thoughts_over_http(http: httpx.Client) -> None:
    body = {"messages": THOUGHTS, "temperature": 0, "max_tokens": 60}
    message = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["reasoning_content"].startswith("It is ")
    body["reasoning_effort"] = "none"
    message = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert "reasoning_content" not in message


def test_prompts_are_logged_if_asked_for(model_path: Path) -> None:
    with serve(model_path, options=("--log-prompts", "--n-ctx", "2048")) as served:
        body = {"messages": [{"role": "user", "content": "a riddle"}], "max_tokens": 2}
        headers = {"x-request-id": "r1"}
        answer = httpx.post(
            served.url + "/v1/chat/completions", json=body, headers=headers, timeout=60
        ).json()
        served.logged('"message": "answer"')
        lines = [json.loads(line) for line in served.lines if '"r1"' in line]
        texts = {line["message"]: line["texts"] for line in lines if "texts" in line}
        assert texts["prompt"] == [body["messages"]]
        assert texts["answer"] == [answer["choices"][0]["message"]["content"]]


def test_sigterm_lets_running_answers_end_and_nothing_new_in(model_path: Path) -> None:
    with serve(model_path, options=("--drain", "60", "--n-ctx", "8192")) as served:
        with httpx.Client(base_url=served.url, timeout=60) as http:
            body = {**ENDLESS, "max_tokens": 150, "stream": True}
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                served.process.terminate()
                wait_until(lambda: any("stopping" in line for line in served.lines), "no stop")
                assert http.get("/ready").json() == {"status": "stopping"}
                refused = http.post("/v1/chat/completions", json=ASK)
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "stopping"
                assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert served.process.wait(60) == 0


def test_what_outlasts_the_drain_ends_with_an_event_that_says_so(model_path: Path) -> None:
    with serve(model_path, options=("--drain", "0.3", "--n-ctx", "8192")) as served:
        with (
            httpx.Client(base_url=served.url, timeout=60) as http,
            http.stream("POST", "/v1/chat/completions", json={**ENDLESS, "stream": True}) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            served.process.terminate()
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "cancelled"
        assert served.process.wait(60) == 0


def test_keys_open_the_server_to_those_who_have_one(model_path: Path, tmp_path: Path) -> None:
    key = new_key()
    entry = {"name": "team", "hash": digest_of(key), "max_running": 1, "priority": 5}
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([entry]))
    options = ("--api-keys", str(keys), "--n-ctx", "4096")
    with serve(model_path, options=options, keys="first,second") as served:
        with httpx.Client(base_url=served.url, timeout=60) as http:

            def ask(key: str, **fields: Any) -> httpx.Response:
                headers = {"authorization": f"Bearer {key}"} if key else {}
                return http.post("/v1/chat/completions", json={**ASK, **fields}, headers=headers)

            for wrong in ("", "wrong", "first,second", entry["hash"]):
                answer = ask(str(wrong))
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == "invalid_api_key"
            assert http.get("/v1/models").status_code == 401
            assert http.get("/metrics").status_code == 401
            assert http.get("/health").status_code == 200
            assert ask("first").status_code == ask("second").status_code == 200
            assert ask(key, priority=0).status_code == 200
            headers = {"authorization": f"Bearer {key}"}
            with http.stream(
                "POST",
                "/v1/chat/completions",
                json={**ENDLESS, "stream": True},
                headers=headers,
            ) as running:
                pieces = running.iter_bytes()  # whose end would be the connection's
                next(pieces)
                answer = ask(key)
                assert answer.status_code == 429
                assert int(answer.headers["retry-after"]) >= 1
        assert not any(key in line for line in served.lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "cannot be read"),
        ("{}", "must hold a list"),
        ('[{"name": "a"}]', "SHA-256"),
        ('[{"name": "", "hash": "x"}]', "not empty"),
        ('[{"name": "a", "key": "x"}]', "a key has"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "weight": 0}]), "out of range"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "priority": -1}]), "out of range"),
        (json.dumps([{"name": "a", "hash": "0" * 64}] * 2), "must differ"),
    ],
)
def test_a_bad_file_of_keys_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(InvalidRequestError, match=expected):
        KeyRing.load(path, {})


def test_a_key_is_found_by_bearer_only() -> None:
    ring = KeyRing([ApiKey("a", digest_of("k"), weight=2)])
    assert ring.find("Bearer k") is ring.keys[0]
    assert ring.find("bearer  k") is ring.keys[0]
    assert ring.find("Basic k") is None
    assert ring.weights == {"a": 2}


def test_wider_than_this_machine_only_with_keys_or_said_so() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        with pytest.raises(InvalidRequestError, match="other machines"):
            ServerSettings(host=host).require_guarded(False)
        ServerSettings(host=host).require_guarded(True)
        ServerSettings(host=host, open_access=True).require_guarded(False)
    for host in ("127.0.0.1", "::1", "localhost"):
        ServerSettings(host=host).require_guarded(False)
    for options, expected in (
        ({"port": 70000}, "port"),
        ({"drain_s": -1}, "drain_s"),
        ({"max_body_mib": 0}, "max_body_mib"),
        ({"max_messages": 0}, "max_messages"),
        ({"default_max_tokens": 0}, "default_max_tokens"),
        ({"tls_key": Path("k")}, "go together"),
    ):
        with pytest.raises(InvalidRequestError, match=expected):
            ServerSettings(**options)  # type: ignore[arg-type]


def test_tls_and_cors(model_path: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out"]
    subprocess.run([*command.split(), *names, str(certificate)], check=True, capture_output=True)
    options = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--n-ctx", "2048")
    with serve(model_path, options=(*options, "--cors-origin", "https://a.example")) as served:
        assert served.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=served.url, verify=trusted, timeout=60) as http:
            answer = http.get("/v1/models", headers={"origin": "https://a.example"})
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
            answer = http.get("/v1/models", headers={"origin": "https://b.example"})
            assert "access-control-allow-origin" not in answer.headers


def pool_of(tmp_path: Path, **options: Any) -> ModelPool:
    config = EngineConfig(n_ctx=256, max_seqs=1, n_threads=1, warmup=False)
    paths = [tiny_models.write("plain", tmp_path / f"{name}.gguf") for name in "abc"]
    return ModelPool([ModelSpec(path.stem, str(path), config) for path in paths], **options)


async def test_models_are_loaded_when_asked_for_and_unloaded_when_idle(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, idle_ttl_s=0.05)
    unloading = asyncio.ensure_future(pool.unload_idle())
    try:
        assert not pool.loaded
        async with pool.use("b") as llm:
            assert llm.engine.submit([1, 2, 3]).result(timeout=60).token_ids
            assert list(pool.loaded) == ["b"]
            await asyncio.sleep(0.3)
            assert list(pool.loaded) == ["b"]
        deadline = time.monotonic() + 30
        while pool.loaded:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        async with pool.use("b"):
            assert list(pool.loaded) == ["b"]
    finally:
        unloading.cancel()
        await pool.close()


async def test_models_give_way_to_others_but_not_while_in_use(tmp_path: Path) -> None:
    size = tiny_models.write("plain", tmp_path / "a.gguf").stat().st_size / (1 << 20)
    pool = pool_of(tmp_path, max_mib=2.5 * size)
    try:
        async with pool.use("a"):
            async with pool.use("b"):
                with pytest.raises(ApiError, match="does not fit") as refused:
                    async with pool.use("c"):
                        pass
                assert refused.value.status == 503
            async with pool.use("c"):
                assert list(pool.loaded) == ["a", "c"]
        with pytest.raises(ApiError, match="no model 'd'"):
            async with pool.use("d"):
                pass
    finally:
        await pool.close()
    assert not pool.loaded


async def test_one_load_serves_all_who_wait_for_it(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)

    async def use() -> int:
        async with pool.use("a") as llm:
            return id(llm)

    try:
        assert len(set(await asyncio.gather(*[use() for _ in range(8)]))) == 1
    finally:
        await pool.close()


def test_models_must_have_different_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="different names"):
        ModelPool([ModelSpec("a", "x"), ModelSpec("a", "y")])
    with pytest.raises(InvalidRequestError, match="different names"):
        ModelPool([])


def test_an_embedding_model_answers_no_chat(tmp_path: Path) -> None:
    model = minilm.write(minilm.fetch(), tmp_path / "mini.gguf")
    with serve(model) as served, httpx.Client(base_url=served.url, timeout=60) as http:
        answer = http.post("/v1/chat/completions", json=ASK)
        assert answer.status_code == 400
        assert "embeddings" in answer.json()["error"]["message"]
        assert http.post("/v1/embeddings", json={"input": "x"}).status_code == 200
        assert http.get("/ready").status_code == 200
