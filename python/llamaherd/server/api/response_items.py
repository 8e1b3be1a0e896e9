"""Input items of /v1/responses: what clients send, and what the output of a response holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llamaherd.server.api.body_schema import BY_KIND, Body, ByType, WithoutEffect
from llamaherd.server.api.content_parts import Part, Text


class Item(Body):
    """Fields of all items."""

    id: str | None = None
    status: str | None = Field(None, description="An incomplete item is used as it is.")


class InputMessage(Item):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text | list[Part], BY_KIND]
    phase: Annotated[str | None, WithoutEffect("chat templates know no phases")] = None


class SummaryPart(Body):
    type: Literal["summary_text"] = "summary_text"
    text: Text


class ReasoningPart(Body):
    type: Literal["reasoning_text", "text"] = "reasoning_text"
    text: Text


class ReasoningItem(Item):
    """Reasoning before a message or a function call of the assistant."""

    type: Literal["reasoning"]
    content: list[ReasoningPart] | None = None
    summary: list[SummaryPart] | None = Field(None, description="Used if there is no content.")
    encrypted_content: Annotated[str | None, WithoutEffect("reasoning is read as text")] = None


_ONE_CALLER = "the model itself calls tools"


class FunctionCallItem(Item):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    parsed_arguments: Annotated[Any, WithoutEffect("arguments holds them as JSON")] = None
    namespace: str | None = None
    caller: Annotated[dict[str, Any] | None, WithoutEffect(_ONE_CALLER)] = None
    is_async: Annotated[bool | None, WithoutEffect("a later item has the result of the call")] = (
        Field(None, alias="async")
    )


class FunctionOutputItem(Item):
    type: Literal["function_call_output"]
    output: Annotated[Text | list[Part], BY_KIND]
    call_id: str | None = None
    name: Annotated[str | None, WithoutEffect("call_id names the call")] = None
    namespace: Annotated[str | None, WithoutEffect("call_id names the call")] = None
    caller: Annotated[dict[str, Any] | None, WithoutEffect(_ONE_CALLER)] = None


InputItem = Annotated[
    InputMessage | ReasoningItem | FunctionCallItem | FunctionOutputItem,
    ByType("input items", default="message"),
]
