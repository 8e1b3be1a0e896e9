"""Schema of requests to /v1/responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from llamaherd.server.api.body_schema import BY_KIND, Body, ByType, WithoutEffect, wrong_value
from llamaherd.server.api.content_parts import Text
from llamaherd.server.api.request_schemas import (
    FIRST_ERROR,
    UNMONITORED,
    HostedFields,
    JsonObjectFormat,
    ReasoningOptions,
    SchedulingFields,
    StreamOptions,
    TextFormat,
    Truncation,
    Verbosity,
)
from llamaherd.server.api.response_items import InputItem
from llamaherd.server.api.response_tools import ResponseTools


class NamedFunctionTool(Body):
    type: Literal["function"]
    name: str


class JsonSchemaText(Body):
    """A schema in the format of /v1/responses."""

    type: Literal["json_schema"]
    name: str = "answer"
    description: str | None = None
    json_schema: dict[str, Any] | bool = Field(True, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    format: (
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaText, ByType("response formats")] | None
    ) = None
    verbosity: Verbosity = None


_WHOLE = "reasoning is returned as text, not as a summary"
Summary = Annotated[Literal["auto", "concise", "detailed"] | None, WithoutEffect(_WHOLE)]


class Reasoning(ReasoningOptions):
    summary: Summary = None
    generate_summary: Summary = None
    context: Annotated[str | None, WithoutEffect("the chat template decides")] = None
    mode: Annotated[Literal["standard"] | None, WithoutEffect("there is one mode")] = None


def _limit(value: int) -> int:
    if value == -1 or 1 <= value < 1 << 31:
        return value
    raise wrong_value("in [1, 2**31), or -1 for no maximum")


class ResponsesRequest(HostedFields, SchedulingFields):
    """The stateless part of OpenAI's /v1/responses."""

    refused: ClassVar[Mapping[str, str]] = {
        "access_programs": "access is by API keys",
        "background_options": "use stream, or a batch job",
        "context_management": "shorten the conversation before sending it",
        "conversation": "send the conversation as input",
        "image": "this server accepts text",
        "moderation": "requests are not moderated",
        "previous_response_id": "responses are not stored; send the conversation as input",
        "prompt": "prompt templates are not stored; send instructions and input",
        "top_logprobs": "use /v1/chat/completions",
    }

    model: str | None = Field(None, description="null: the server's first model.")
    input: Annotated[Text | Annotated[list[InputItem], FIRST_ERROR], BY_KIND]
    instructions: str | None = None
    max_output_tokens: Annotated[int, AfterValidator(_limit)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    stream_options: Annotated[
        StreamOptions | None, WithoutEffect("the last event always has the usage")
    ] = None
    tools: ResponseTools | None = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"]
        | Annotated[NamedFunctionTool, ByType("tool choices", "none, auto, required and function")]
        | None,
        BY_KIND,
    ] = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = Field(None, description="Returned unchanged.")
    include: Annotated[
        list[
            Literal[
                "file_search_call.results",
                "web_search_call.results",
                "web_search_call.action.sources",
                "message.input_image.image_url",
                "computer_call_output.output.image_url",
                "code_interpreter_call.outputs",
                "reasoning.encrypted_content",
            ]
        ]
        | None,
        WithoutEffect("responses have none of these; reasoning is sent as text"),
    ] = None
    client_metadata: Annotated[dict[str, Any] | None, WithoutEffect(UNMONITORED)] = None
    background: Annotated[
        Literal[False] | None, WithoutEffect("responses are made while the client waits")
    ] = None
    max_tool_calls: Annotated[
        int | None, WithoutEffect("it limits tools that the server runs; there are none")
    ] = None
    truncation: Truncation = None
