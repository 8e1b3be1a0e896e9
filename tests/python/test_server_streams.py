"""Streamed answers that wait: for their turn, for a long prompt, for a model."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Served, figure, serve, wait_until

URL = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count."}],
    "max_tokens": 3,
    "stream": True,
}
ENDLESS: dict[str, Any] = {**ASK, "max_tokens": 3000, "ignore_eos": True}
QUICK = ("--stream-start", "0.2", "--stream-keep-alive", "0.1")
COMMENT = ": keep-alive"


@pytest.fixture(scope="module")
def served(model_path: Path) -> Iterator[Served]:
    """A server of one place."""
    options = (*QUICK, "--max-seqs", "1", "--n-ctx", "4096", "--limit", "max_queued=2")
    with serve(f"chat={model_path}", options=options) as served:
        yield served


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


def chunks_of(lines: Iterator[str]) -> list[Any]:
    """The events, without comments and [DONE]."""
    data = [line.removeprefix("data: ") for line in lines if line and line != COMMENT]
    assert data.pop() == "[DONE]"
    return [json.loads(text) for text in data]


@contextlib.contextmanager
def endless(http: httpx.Client) -> Iterator[httpx.Response]:
    """A request that takes the only place."""
    with http.stream("POST", URL, json=ENDLESS) as running:
        lines = running.iter_lines()  # dropping it would end the request
        assert any(line.startswith("data: ") for line in lines)
        yield running
        del lines


def read_comments(lines: Iterator[str], n: int) -> None:
    for line in lines:
        assert line in ("", COMMENT), line
        n -= line == COMMENT
        if n == 0:
            return
    pytest.fail("the stream has ended")


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (URL, ASK),
        ("/v1/completions", {"prompt": "One", "max_tokens": 3, "stream": True}),
        ("/v1/responses", {"input": "One", "max_output_tokens": 3, "stream": True}),
    ],
)
def test_who_waits_in_the_queue_gets_headers_and_comments(
    http: httpx.Client, url: str, body: dict[str, Any]
) -> None:
    with endless(http) as running, http.stream("POST", url, json=body) as waiting:
        assert waiting.status_code == 200
        lines = waiting.iter_lines()
        read_comments(lines, 3)
        assert figure(http, "num_requests_waiting") == 1
        running.close()
        rest = list(lines)
    assert any(line.startswith("data: ") for line in rest)
    assert not any(line.startswith('data: {"error"') for line in rest)


def test_an_error_before_the_headers_sets_the_status_and_a_later_one_is_an_event(
    http: httpx.Client,
) -> None:
    with (
        endless(http),
        http.stream("POST", URL, json=ASK) as second,
        http.stream("POST", URL, json={**ASK, "ttft_deadline_s": 1}) as third,
    ):
        assert (second.status_code, third.status_code) == (200, 200)
        wait_until(lambda: figure(http, "num_requests_waiting") == 2, "they do not wait")
        refused = http.post(URL, json=ASK)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        (*_, last) = chunks_of(third.iter_lines())
        assert last["choices"][0]["finish_reason"] == "deadline"


def test_who_leaves_after_the_headers_leaves_the_queue(http: httpx.Client) -> None:
    with endless(http):
        with http.stream("POST", URL, json=ENDLESS) as waiting:
            read_comments(waiting.iter_lines(), 1)
        wait_until(lambda: figure(http, "num_requests_waiting") == 0, "it still waits")
        assert figure(http, "num_requests_running") == 1
    wait_until(lambda: figure(http, "num_requests_running") == 0, "it still runs")
    assert figure(http, "requests_without_token") == 0


def test_a_model_that_loads_keeps_nobody_without_headers(model_path: Path) -> None:
    options = ("--stream-start", "0", "--stream-keep-alive", "0.01", "--n-ctx", "2048")
    with serve(f"one={model_path}", f"two={model_path}", options=options) as served:
        url = served.url + URL
        with httpx.stream("POST", url, json={**ASK, "model": "two"}, timeout=60) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            read_comments(lines, 2)
            chunks = chunks_of(lines)
        assert chunks[-1]["choices"][0]["finish_reason"] in ("length", "stop")
        with httpx.stream("POST", url, json={**ASK, "model": "none"}, timeout=60) as answer:
            text = answer.read().decode()
        assert '"code":"model_not_found"' in text


def test_progress_tells_the_place_in_the_queue_and_the_tokens_done(http: httpx.Client) -> None:
    words = " ".join(f"word{i}" for i in range(400))
    body = {
        "messages": [{"role": "user", "content": words}],
        "max_tokens": 2,
        "stream": True,
        "return_progress": True,
        "stream_options": {"include_usage": True},
    }
    with endless(http) as running, http.stream("POST", URL, json=body) as waiting:
        lines = waiting.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        time.sleep(0.6)
        running.close()
        rest = chunks_of(lines)
    chunks = [json.loads(first.removeprefix("data: ")), *rest]
    told = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    total = chunks[-1]["usage"]["prompt_tokens"]
    assert total > 400
    assert {progress["total"] for progress in told} == {total}
    assert (told[0]["queue_position"], told[0]["processed"], told[0]["time_ms"]) == (1, 0, 0)
    assert (told[-1]["queue_position"], told[-1]["processed"]) == (0, total)
    assert told[-1]["cache"] <= total
    done = [progress["processed"] for progress in told]
    assert done == sorted(done)
    index = max(i for i, chunk in enumerate(chunks) if "prompt_progress" in chunk)
    assert chunks[index]["choices"] == [{"index": 0, "delta": {}, "finish_reason": None}]
    assert chunks[index + 1]["choices"][0]["delta"]["role"] == "assistant"


@pytest.mark.parametrize("prompt", ["One two", ["One two", "Three"]])
def test_progress_of_completions_is_that_of_all_prompts(http: httpx.Client, prompt: Any) -> None:
    body = {"prompt": prompt, "max_tokens": 2, "stream": True, "return_progress": True}
    body["stream_options"] = {"include_usage": True}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        chunks = chunks_of(answer.iter_lines())
    told = [chunk for chunk in chunks if "prompt_progress" in chunk]
    last = told[-1]["prompt_progress"]
    assert last["processed"] == last["total"] == chunks[-1]["usage"]["prompt_tokens"]
    assert told[-1]["choices"] == [
        {"index": 0, "text": "", "finish_reason": None, "logprobs": None}
    ]


def test_progress_is_sent_only_if_asked_for(http: httpx.Client) -> None:
    with http.stream("POST", URL, json=ASK) as answer:
        assert "prompt_progress" not in answer.read().decode()
    whole = http.post(URL, json={**ASK, "stream": False, "return_progress": True})
    assert whole.status_code == 200
    assert "prompt_progress" not in whole.text
