"""Schemas of requests. Unknown fields are rejected by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

Text = Annotated[str, Field(max_length=1 << 24)]
# Reports the first error only, not one for each of a million items.
_FirstError = Field(fail_fast=True)
TokenList = Annotated[list[StrictInt], _FirstError]
Texts = Annotated[list[Text], _FirstError]


class Body(BaseModel):
    """Base of all bodies: rejects unknown fields; accepts 1 for 1.0."""

    model_config = ConfigDict(extra="forbid")


class SchedulingFields(Body):
    """llamaherd's scheduling and caching options."""

    priority: int | None = Field(
        None, ge=0, le=100, description="Class in [0, 100]; lower is more urgent."
    )
    deadline_s: float | None = Field(None, description="Seconds from arrival to the required end.")
    ttft_deadline_s: float | None = Field(
        None, description="Seconds from arrival to the required first token."
    )
    cache: bool = Field(True, description="false: neither reads nor writes the prefix cache.")
    cache_salt: str = Field(
        "", description="Only requests with the same salt share cached prefixes."
    )
    user: str | None = Field(None, description="Tenant of the request, if the API key has none.")


class Sampling(SchedulingFields):
    """Sampling options: OpenAI's fields, followed by llamaherd's."""

    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], _FirstError] | None = None
    n: int | None = None

    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: TokenList | None = None
    ignore_eos: bool | None = None
    prompt_lookup: bool | None = None
    regex: str | None = None
    choice: Annotated[list[str], _FirstError] | None = None
    lark: str | None = None
    grammar: str | None = Field(None, description="GBNF.")


SAMPLING_FIELDS = tuple(
    name for name in Sampling.model_fields if name not in SchedulingFields.model_fields
)


class StreamOptions(Body):
    include_usage: bool = False


class TextPart(Body):
    type: Literal["text", "input_text", "output_text"]
    text: Text


class FunctionCall(Body):
    name: str
    arguments: str


class ToolCall(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None


class Function(Body):
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Ignored: calls always conform to their schema.")


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    name: str = "answer"
    description: str | None = None
    json_schema: dict[str, Any] | bool = Field(True, alias="schema")
    strict: bool | None = Field(
        None, description="Ignored: the output always conforms to the schema."
    )


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]
Effort = Literal["none", "minimal", "low", "medium", "high"]


class ChatRequest(Sampling):
    model: str | None = Field(None, description="null: the server's first model.")
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=50)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], _FirstError] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = Field(None, description="none: disables reasoning.")
    store: Literal[False] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(Sampling):
    model: str | None = Field(None, description="null: the server's first model.")
    prompt: Text | TokenList | Texts | Annotated[list[TokenList], _FirstError]
    max_tokens: int | None = 16
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=50)
    echo: bool = False
    best_of: int | None = None
    response_format: ResponseFormat | None = None


class EmbeddingRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    input: Text | Texts = Field(description="Texts.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, ge=1, description="Keep this many leading components and normalize again."
    )
    user: str | None = None
    truncate: bool = Field(
        False, description="Truncate texts that are too long instead of rejecting them."
    )


class RerankRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    query: Text
    documents: Texts = Field(min_length=1)
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    truncate: bool = False


class TokenizeRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    prompt: Text | None = None
    messages: Annotated[list[Message], _FirstError] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    tokens: TokenList
    special: bool = Field(False, description="Include special tokens as text.")


class ScoreRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    prompt: Text | TokenList
    continuations: Texts = Field(min_length=1)


class FunctionTool(Body):
    """A tool in the format of /v1/responses."""

    type: Literal["function"]
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunctionTool(Body):
    type: Literal["function"]
    name: str


class InputMessage(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    id: str | None = None
    status: str | None = None


class FunctionCallItem(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutputItem(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: str
    id: str | None = None
    status: str | None = None


class JsonSchemaText(Body):
    """A schema in the format of /v1/responses."""

    type: Literal["json_schema"]
    name: str = "answer"
    description: str | None = None
    json_schema: dict[str, Any] | bool = Field(True, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    format: (
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaText, Field(discriminator="type")]
        | None
    ) = None


class Reasoning(Body):
    effort: Effort | None = None
    summary: None = None


class ResponsesRequest(SchedulingFields):
    """The stateless part of OpenAI's /v1/responses."""

    model: str | None = Field(None, description="null: the server's first model.")
    input: Text | Annotated[list[InputMessage | FunctionCallItem | FunctionOutputItem], _FirstError]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    store: Literal[False] | None = None
    tools: Annotated[list[FunctionTool], _FirstError] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunctionTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = Field(None, description="Returned unchanged.")
