"""Requests of real clients, replayed; client_requests/README.md says where they come from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel
from serving import serve_with_tools

FOLDER = Path(__file__).parent / "client_requests"
N_TOKENS = 48
_LIMITS = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
# A type of event names its class.
_EVENTS: dict[str, type[BaseModel]] = {
    name: kind
    for kind in get_args(get_args(ResponseStreamEvent)[0])
    for name in get_args(kind.model_fields["type"].annotation)
}


REQUESTS = [
    pytest.param(json.loads(line), id=f"{file.stem}-{i}")
    for file in sorted(FOLDER.glob("*.jsonl"))
    for i, line in enumerate(file.read_text(encoding="utf-8").splitlines())
]


@pytest.fixture(scope="module")
def http(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    options = ("--default-max-tokens", str(N_TOKENS))
    with (
        serve_with_tools(model_path, tmp_path_factory.mktemp("config"), *options) as served,
        httpx.Client(base_url=served.url, timeout=120) as http,
    ):
        yield http


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_clients_request_is_answered(http: httpx.Client, request_: dict[str, Any]) -> None:
    body = dict(request_["body"])
    for name in _LIMITS & body.keys():
        body[name] = min(body[name], N_TOKENS)
    answer = http.post(request_["path"], headers=request_["headers"], json=body)
    assert answer.status_code == 200, answer.text
    if body.get("stream"):
        assert answer.headers["content-type"].startswith("text/event-stream")
        calls, is_cut = _STREAMS[request_["path"]](answer.text)
    else:
        calls, is_cut = _WHOLE[request_["path"]](answer.content)
    _require_calls(body.get("tool_choice"), calls, is_cut)


# Each function returns the names of the calls, and whether the output was cut.
def _chat(text: bytes) -> tuple[list[str], bool]:
    (choice,) = ChatCompletion.model_validate_json(text, strict=True).choices
    calls: Any = choice.message.tool_calls or ()
    return [call.function.name for call in calls], choice.finish_reason == "length"


def _response(text: bytes) -> tuple[list[str], bool]:
    return _parts_of(Response.model_validate_json(text, strict=True))


def _parts_of(response: Response) -> tuple[list[str], bool]:
    names = [item.name for item in response.output if item.type == "function_call"]
    return names, response.status == "incomplete"


def _chunks(stream: str, kind: type[BaseModel]) -> list[Any]:
    *lines, last = (line for line in stream.splitlines() if line.startswith("data: "))
    assert last == "data: [DONE]"
    return [kind.model_validate_json(line.removeprefix("data: "), strict=True) for line in lines]


def _chat_stream(stream: str) -> tuple[list[str], bool]:
    chunks = _chunks(stream, ChatCompletionChunk)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    names: list[str] = []
    for call in (call for choice in choices for call in choice.delta.tool_calls or ()):
        if call.index == len(names):
            assert call.id
            names.append(call.function.name)
    (end,) = (choice.finish_reason for choice in choices if choice.finish_reason)
    return names, end == "length"


def _completion_stream(stream: str) -> tuple[list[str], bool]:
    # Before the last chunk the reason is null, as OpenAI sends it; the type lacks this.
    stream = re.sub(r'"finish_reason": ?null', '"finish_reason":"stop"', stream)
    chunks = _chunks(stream, Completion)
    return [], chunks[-1].choices[0].finish_reason == "length"


def _response_stream(stream: str) -> tuple[list[str], bool]:
    events: list[Any] = []
    for block in stream.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if lines:
            events.append(_EVENTS[lines["event"]].model_validate_json(lines["data"], strict=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    return _parts_of(events[-1].response)


_WHOLE = {"/v1/chat/completions": _chat, "/v1/responses": _response}
_STREAMS = {
    "/v1/chat/completions": _chat_stream,
    "/v1/completions": _completion_stream,
    "/v1/responses": _response_stream,
}


def _require_calls(choice: Any, calls: list[str], is_cut: bool) -> None:
    """A call that was required was made, unless the output was cut before it."""
    if isinstance(choice, dict):
        assert set(calls) <= {choice.get("function", choice)["name"]}
    if choice not in (None, "auto", "none"):
        assert calls or is_cut


def test_more_tokens_than_the_context_has_may_be_asked_for(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Yes or no?"}], "choice": ["yes", "no"]}
    answer = http.post("/v1/chat/completions", json={**body, "max_tokens": 32000})
    assert answer.status_code == 200, answer.text


def test_recordings_hold_nothing_private() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text(encoding="utf-8")
        for private in ("/root", "/home", "/tmp", "/Users", "authorization", "Bearer"):
            assert private not in text, f"{file.name} contains {private}"
