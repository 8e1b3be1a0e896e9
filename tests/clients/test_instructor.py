"""instructor: objects from calls and from structured outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import instructor
import pytest
from openai import OpenAI
from weather import QUESTION, THANKS, Report


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


MODES = [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA]


@pytest.mark.parametrize("mode", MODES)
def test_two_reports(client: OpenAI, mode: instructor.Mode) -> None:
    instructing: Any = instructor.from_openai(client, mode=mode)
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    options: dict[str, Any] = {"model": "chat", "response_model": Report, "temperature": 0}
    first, completion = instructing.chat.completions.create_with_completion(
        messages=messages, **options
    )
    assert isinstance(first, Report)
    message = completion.choices[0].message
    messages.append(message.model_dump())
    calls = message.tool_calls or ()
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "noted"} for call in calls]
    messages.append({"role": "user", "content": THANKS})
    second = instructing.chat.completions.create(messages=messages, max_retries=0, **options)
    assert isinstance(second, Report)


@pytest.mark.parametrize("mode", MODES)
def test_streamed(client: OpenAI, mode: instructor.Mode) -> None:
    instructing: Any = instructor.from_openai(client, mode=mode)
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    *_, last = instructing.chat.completions.create_partial(
        model="chat", response_model=Report, messages=messages, temperature=0
    )
    assert Report.model_validate(last.model_dump())
