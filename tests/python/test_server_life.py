"""Clients that go away, servers that stop, what they log."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import httpx
import minilm
import numpy as np
import pytest
from llamaherd import Embedder, InvalidRequestError
from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs import embedding_jobs
from llamaherd.server.observability.json_logs import JsonFormatter
from serving import Served, figure, serve, wait_until

ENDLESS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count."}],
    "max_tokens": 3000,
    "ignore_eos": True,
}
ASK: dict[str, Any] = {**ENDLESS, "max_tokens": 3}


@pytest.fixture(scope="module")
def served(model_path: Path) -> Iterator[Served]:
    with serve(f"chat={model_path}", options=("--n-ctx", "16384")) as served:
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
        texts = ["some words " * 120] * 2000
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
    made = embedding_jobs.embed(embedder, texts, pooling=None, truncate=False, gone=Event())
    assert made.shape == (10, 2)
    assert asked == [3, 3, 2, 1, 1]
    asked.clear()
    gone.clear()
    with pytest.raises(ApiError, match="cancelled"):
        embedding_jobs.embed(embedder, texts, pooling=None, truncate=False, gone=gone)
    assert asked == [3, 3, 2]


def test_a_text_that_breaks_a_rule_is_named_by_its_place_among_all(tmp_path: Path) -> None:
    model = minilm.write(minilm.fetch(), tmp_path / "mini.gguf")
    embedder = Embedder(model, progress=False)
    texts = [str(i) + " " * 3000 for i in range(60)] + ["word " * 3000]
    with pytest.raises(InvalidRequestError, match="text 60") as alone:
        embedder.embed(texts)
    with pytest.raises(InvalidRequestError) as in_pieces:
        embedding_jobs.embed(embedder, texts, pooling=None, truncate=False, gone=Event())
    assert str(in_pieces.value) == str(alone.value)
    ranked = embedding_jobs.rerank(
        embedder, "word", texts, pooling=None, truncate=True, gone=Event()
    )
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


def test_log_lines_are_bounded_printable_ascii() -> None:
    formatter = JsonFormatter()

    def written(message: str, **extra: Any) -> dict[str, Any]:
        record = logging.makeLogRecord({"msg": message, "levelname": "INFO", **extra})
        text = formatter.format(record)
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 50_000
        line: dict[str, Any] = json.loads(text)
        return line

    assert written("a", n=1, path="/x")["path"] == "/x"
    nasty = "\x1b[31m\x7f\n\x85\u2028\u202e\ud800 é"
    assert written(nasty, path=nasty)["path"] == nasty
    assert written(nasty)["message"] == nasty
    long = written("m" * 100_000, path="p" * 100_000, texts=["t" * 50_000] * 2)
    assert long["message"].endswith("m... (100000 characters)")
    assert long["path"].endswith("p... (100000 characters)")
    assert long["texts"].endswith("t... (100008 characters)")
    assert written("x", texts=["a", {"b": "é"}])["texts"] == ["a", {"b": "é"}]
    try:
        raise ValueError("v" * 100_000)
    except ValueError:
        failed = written("x", exc_info=sys.exc_info())
    assert failed["exception"].startswith("(100")
    assert len(failed["exception"]) < 9000


def test_sigterm_lets_running_answers_end_and_nothing_new_in(model_path: Path) -> None:
    with serve(model_path, options=("--drain-timeout", "60", "--n-ctx", "8192")) as served:
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
    with serve(model_path, options=("--drain-timeout", "0.3", "--n-ctx", "8192")) as served:
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


def test_an_embedding_model_answers_no_chat(tmp_path: Path) -> None:
    model = minilm.write(minilm.fetch(), tmp_path / "mini.gguf")
    with serve(model) as served, httpx.Client(base_url=served.url, timeout=60) as http:
        answer = http.post("/v1/chat/completions", json=ASK)
        assert answer.status_code == 400
        assert "embedding model" in answer.json()["error"]["message"]
        assert http.post("/v1/embeddings", json={"input": "x"}).status_code == 200
        assert http.get("/ready").status_code == 200
