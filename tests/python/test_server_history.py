"""What the server has written is sent back to it as history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from llamaherd.server.api.item_messages import messages_of_items
from llamaherd.server.api.responses_request import ResponsesRequest
from openai import OpenAI
from serving import Served, serve_with_tools
from test_chat import CALLS, THOUGHTS, WEATHER

MORE: dict[str, Any] = {"role": "user", "content": "Go on."}
FUNCTION = {"type": "function", **WEATHER["function"]}
# What the model writes: a call, reasoning and content, or either of them cut short.
KINDS: dict[str, tuple[list[Any], int]] = {
    "a call": (CALLS, 120),
    "a call that is cut": (CALLS, 14),
    "reasoning and content": (THOUGHTS, 60),
    "reasoning that is cut": (THOUGHTS, 8),
    "content": ([{"role": "user", "content": "Name a river."}], 8),
}


@pytest.fixture(scope="module")
def served(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_with_tools(model_path, tmp_path_factory.mktemp("config"), n_ctx=4096) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


def items_of(messages: list[Any]) -> list[Any]:
    items: list[Any] = []
    for message in messages:
        if "reasoning_content" in message:
            text = {"type": "reasoning_text", "text": message["reasoning_content"]}
            items.append({"type": "reasoning", "summary": [], "content": [text]})
        items += [
            {"type": "function_call", "call_id": call["id"], **call["function"]}
            for call in message.get("tool_calls", ())
        ]
        if message["content"]:
            items.append({"role": message["role"], "content": message["content"]})
    return items


def results_of(output: list[Any]) -> list[Any]:
    parts = [{"type": "input_text", "text": "20"}, {"type": "input_text", "text": "degrees"}]
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": parts}
        for item in output
        if item.type == "function_call"
    ]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_output_of_a_response_is_input(client: OpenAI, kind: str, streamed: bool) -> None:
    messages, n_tokens = KINDS[kind]
    options: dict[str, Any] = {"model": "chat", "temperature": 0}
    first: Any
    if "call" in kind:
        options["tools"] = [FUNCTION]
    given = items_of(messages)
    if streamed:
        with client.responses.stream(input=given, max_output_tokens=n_tokens, **options) as stream:
            events: list[Any] = list(stream)
        done = [e.item for e in events if e.type == "response.output_item.done"]
        first = events[-1].response
        assert [item.id for item in done] == [item.id for item in first.output]
        assert [item.status for item in done] == [item.status for item in first.output]
    else:
        first = client.responses.create(input=given, max_output_tokens=n_tokens, **options)
    is_cut = "cut" in kind or kind == "content"
    assert first.status == ("incomplete" if is_cut else "completed")
    statuses = [item.status for item in first.output]
    assert statuses == ["completed"] * (len(statuses) - 1) + [first.status]
    types = [item.type for item in first.output]
    expected = {
        "a call": ["function_call"],
        "reasoning and content": ["reasoning", "message"],
        "reasoning that is cut": ["reasoning"],
        "content": ["message"],
    }
    assert types == expected.get(kind, types)
    for output in (first.output, [item.model_dump() for item in first.output]):
        again = [*given, *output, *results_of(first.output), MORE]
        second = client.responses.create(input=again, max_output_tokens=4, **options)
        assert second.output


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_chat_answer_is_a_message(client: OpenAI, kind: str, streamed: bool) -> None:
    messages, n_tokens = KINDS[kind]
    options: dict[str, Any] = {"model": "chat", "temperature": 0}
    if "call" in kind:
        options["tools"] = [WEATHER]
    limits = {"messages": messages, "max_tokens": n_tokens}
    if streamed:
        with client.chat.completions.stream(**limits, **options) as events:
            answer: Any = None
            for event in events:
                answer = getattr(event, "snapshot", answer)
        message = answer.choices[0].message
    else:
        message = client.chat.completions.create(**limits, **options).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "20"}
        for call in message.tool_calls or ()
    ]
    for sent in (message, message.model_dump()):
        again = [*messages, sent, *results, MORE]
        second = client.chat.completions.create(messages=again, max_tokens=4, **options)
        assert second.choices[0].message.content or second.choices[0].message.tool_calls


def messages_of(*items: Any) -> list[dict[str, Any]]:
    body = ResponsesRequest.model_validate({"input": list(items)})
    assert not isinstance(body.input, str)
    return messages_of_items(body.input)


def test_consecutive_items_of_the_assistant_are_one_message() -> None:
    thought = {"type": "reasoning_text", "text": "I must look."}
    said = {"type": "output_text", "text": "Wait.", "annotations": [], "logprobs": []}
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc"}
    made = messages_of(
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [thought], "status": None},
        {"type": "message", "role": "assistant", "id": "m", "status": "completed",
         "content": [said], "phase": "commentary"},
        call,
        {**call, "call_id": "c2", "namespace": "n", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [said, said]},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "So."}],
         "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": "Done."},
        {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
        {"role": "user", "content": [{"type": "input_text", "text": "Thanks"}]},
    )  # fmt: skip
    function = {"name": "f", "arguments": "{}"}
    part = {"type": "text", "text": "Wait."}
    assert made == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Wait.",
            "reasoning_content": "I must look.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": function},
                {"id": "c2", "type": "function", "function": {**function, "name": "n__f"}},
            ],
        },
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "tool", "content": [part, part], "tool_call_id": "c2"},
        {"role": "assistant", "content": "Done.", "reasoning_content": "So."},
        {"role": "user", "content": "Thanks"},
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "web_search_call"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input_image"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"include": ["message.output_text.logprobs"]}, "message.output_text.logprobs"),
        ({"truncation": "middle"}, "truncation"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    http: httpx.Client, fields: dict[str, Any], expected: str
) -> None:
    answer = http.post("/v1/responses", json={"input": "Hi", **fields})
    assert answer.status_code == 400
    assert expected in answer.json()["error"]["message"]


def test_fields_of_agents_are_accepted(http: httpx.Client) -> None:
    body = {
        "input": "Hi",
        "max_output_tokens": 2,
        "include": ["reasoning.encrypted_content"],
        "truncation": "disabled",
        "client_metadata": {"session": "1"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "previous_response_id": None,
    }
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["truncation"] == "disabled"


def test_an_assistant_message_at_the_end_is_continued(http: httpx.Client) -> None:
    ask = {"role": "user", "content": "Name a river."}
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}

    def answer(messages: list[Any], **fields: Any) -> httpx.Response:
        return http.post("/v1/chat/completions", json={"messages": messages, **options, **fields})

    messages = [ask, {"role": "assistant", "content": "The Nile"}]
    continuing = ({}, {"continue_final_message": True}, {"add_generation_prompt": False})
    rests = [
        answer(messages, **fields).json()["choices"][0]["message"]["content"]
        for fields in continuing
    ]
    rest = rests[0]
    assert rests == [rest] * 3
    assert rest
    assert "The Nile" not in rest
    items = {"input": messages, "temperature": 0, "max_output_tokens": 12}
    response = http.post("/v1/responses", json=items).json()
    assert response["output"][0]["content"][0]["text"] == rest
    for fields in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        new = answer(messages, **fields).json()
        assert new["usage"]["prompt_tokens"] != response["usage"]["input_tokens"]
    for refused in (
        answer([ask], continue_final_message=True),
        answer([ask], add_generation_prompt=False),
        answer(messages, continue_final_message=True, add_generation_prompt=True),
        answer(messages, continue_final_message=False, add_generation_prompt=False),
        answer([*CALLS[:2]]),
    ):
        assert refused.status_code == 400, refused.text


def test_text_parts_and_system_messages_mean_the_same_everywhere(http: httpx.Client) -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]
    ask = {"role": "user", "content": "Hi"}

    def tokens(*messages: Any) -> Any:
        return http.post("/tokenize", json={"messages": list(messages)}).json()["tokens"]

    assert tokens({"role": "user", "content": parts}) == tokens(
        {"role": "user", "content": "One\ntwo"}
    )
    merged = tokens({"role": "system", "content": "A\n\nB"}, ask)
    assert merged == tokens(
        {"role": "system", "content": "A"}, {"role": "developer", "content": "B"}, ask
    )
    body = {
        "instructions": "A",
        "input": [{"role": "developer", "content": "B"}, ask],
        "max_output_tokens": 1,
    }
    usage = http.post("/v1/responses", json=body).json()["usage"]
    assert usage["input_tokens"] == len(merged)


def test_two_turns_of_an_agent_with_the_responses_api(client: OpenAI) -> None:
    """As Codex sends them: streamed, stateless, with encrypted reasoning and a cache key."""
    messages = items_of(CALLS)
    options: dict[str, Any] = {
        "model": "chat",
        "instructions": "You are an agent.",
        "tools": [{**FUNCTION, "strict": False}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "session",
        "temperature": 0,
        "max_output_tokens": 120,
        "extra_body": {"client_metadata": {"session": "1"}},
    }
    developer = {"type": "input_text", "text": "Sandboxed."}
    given = [{"type": "message", "role": "developer", "content": [developer]}, *messages]
    for _ in range(2):
        events = list(client.responses.create(input=given, stream=True, **options))
        last: Any = events[-1]
        assert last.type == "response.completed"
        items = [event.item for event in events if event.type == "response.output_item.done"]
        assert [item.type for item in items] == [item.type for item in last.response.output]
        output = [item.model_dump(exclude_none=True) for item in items]
        given = [*given, *output, *results_of(items), MORE]


def test_many_items_take_linear_time() -> None:
    thought = {"type": "reasoning", "summary": [{"text": "So."}]}
    said = {"role": "assistant", "content": "a"}
    (made,) = messages_of(*[thought, said] * 20_000)
    assert len(made["content"]) == 20_000
    assert made["reasoning_content"].count("So.") == 20_000
