"""Schemas of requests. docs/reference/openai-fields.md lists OpenAI's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictInt

from llamaherd.server.api.body_schema import BY_KIND, Body, ByType, WithoutEffect
from llamaherd.server.api.content_parts import CACHED, CacheControl, Citations, Part, Text

# Reports the first error only, not one for each of a million items.
FIRST_ERROR = Field(fail_fast=True)
TokenList = Annotated[list[StrictInt], FIRST_ERROR]
TokenLists = Annotated[list[TokenList], FIRST_ERROR]
Texts = Annotated[list[Text], FIRST_ERROR]


_ONE_TIER = "all requests are served alike; see priority"
_NOT_KEPT = "responses are not stored"
UNMONITORED = "requests are not monitored"


class HostedFields(Body):
    """Fields of OpenAI's API that concern its service, not the answer."""

    service_tier: Annotated[str | None, WithoutEffect(_ONE_TIER)] = None
    store: Annotated[bool | None, WithoutEffect(_NOT_KEPT)] = None
    safety_identifier: Annotated[str | None, WithoutEffect(UNMONITORED)] = None
    prompt_cache_key: Annotated[str | None, WithoutEffect(CACHED)] = None
    prompt_cache_retention: Annotated[str | None, WithoutEffect(CACHED)] = None
    prompt_cache_options: CacheControl = None


class SchedulingFields(Body):
    """llamaherd's scheduling and caching options."""

    other_names: ClassVar[Mapping[str, str]] = {"cache_prompt": "cache"}

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

    other_names: ClassVar[Mapping[str, str]] = {
        **SchedulingFields.other_names,
        "repeat_penalty": "repetition_penalty",
        "guided_regex": "regex",
        "guided_choice": "choice",
        "guided_grammar": "grammar",
    }

    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: Annotated[str | Annotated[list[str], FIRST_ERROR] | None, BY_KIND] = None
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
    choice: Annotated[list[str], FIRST_ERROR] | None = None
    lark: str | None = None
    grammar: str | None = Field(None, description="GBNF.")


SAMPLING_FIELDS = tuple(
    name for name in Sampling.model_fields if name not in SchedulingFields.model_fields
)


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: Annotated[
        bool | None, WithoutEffect("events are not padded to a common length")
    ] = None


ReturnProgress: Any = Field(
    None, description="With stream: send events with prompt_progress before the first token."
)


class FunctionCall(Body):
    name: str
    arguments: str
    parsed_arguments: Annotated[Any, WithoutEffect("arguments holds them as JSON")] = None


class ToolCall(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Annotated[int | None, WithoutEffect("calls are numbered by their order")] = None


class Message(Body):
    refused: ClassVar[Mapping[str, str]] = {
        "audio": "answers are text; send their transcript as content",
        "function_call": "use tool_calls",
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text | list[Part] | None, BY_KIND] = None
    name: str | None = None
    tool_calls: list[Annotated[ToolCall, ByType("tool calls", default="function")]] | None = None
    tool_call_id: str | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = Field(None, description="Another name of reasoning_content.")
    refusal: Text | None = Field(None, description="Follows the text of content.")
    annotations: Citations = None
    parsed: Annotated[Any, WithoutEffect("content holds it as JSON")] = None
    cache_control: CacheControl = None


class Function(Body):
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(
        None, description="true: a schema that cannot be enforced is refused."
    )


class Tool(Body):
    type: Literal["function"]
    function: Function
    cache_control: CacheControl = None


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
    json_schema: dict[str, Any] | None = Field(
        None, alias="schema", description="As with json_schema, in the form of llama-server."
    )


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, ByType("response formats")
]
Verbosity = Annotated[
    Literal["low", "medium", "high"] | None, WithoutEffect("models have no such control")
]
Effort = Annotated[str, Field(max_length=64)]


class ReasoningOptions(Body):
    effort: Effort | None = Field(None, description="none: disables reasoning.")
    max_tokens: int | None = Field(
        None, ge=0, description="Maximum reasoning tokens; then the end of reasoning is forced."
    )
    enabled: bool | None = Field(None, description="false: as effort none.")


Truncation = Annotated[
    Literal["auto", "disabled"] | None,
    Field(description="auto: drops the oldest turns of a conversation that does not fit."),
]


class Prediction(Body):
    type: Literal["content"]
    content: Annotated[Text | list[Part], BY_KIND]


class ChatRequest(HostedFields, Sampling):
    refused: ClassVar[Mapping[str, str]] = {
        "audio": "answers are text",
        "function_call": "use tool_choice",
        "functions": "use tools",
        "guided_json": "use response_format",
        "moderation": "requests are not moderated",
        "structured_outputs": "use response_format, regex, choice or grammar",
        "thinking": "use reasoning_effort",
        "web_search_options": "give the model a tool that searches",
    }

    model: str | None = Field(None, description="null: the server's first model.")
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_progress: bool | None = ReturnProgress
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=50)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Annotated[Tool, ByType("tools")]], FIRST_ERROR] | None = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"]
        | Annotated[NamedTool, ByType("tool choices", "none, auto, required and function")]
        | None,
        BY_KIND,
    ] = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = Field(None, description="none: disables reasoning.")
    reasoning: ReasoningOptions | None = None
    thinking_budget_tokens: int | None = Field(None, ge=0, description="As reasoning.max_tokens.")
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: Annotated[dict[str, Any] | None, WithoutEffect(_NOT_KEPT)] = None
    modalities: Annotated[
        list[Literal["text"]] | None, WithoutEffect("answers are always text")
    ] = None
    prediction: Annotated[
        Prediction | None, WithoutEffect("drafts come from prompt_lookup; answers do not change")
    ] = None
    verbosity: Verbosity = None
    continue_final_message: bool | None = Field(
        None,
        description="Continue the last message; null: if it is an assistant message.",
    )
    add_generation_prompt: bool | None = Field(
        None, description="The opposite of continue_final_message."
    )
    truncation: Truncation = None


class CompletionRequest(Sampling):
    model: str | None = Field(None, description="null: the server's first model.")
    prompt: Annotated[Text | TokenList | Texts | TokenLists, BY_KIND]
    suffix: Text | None = Field(
        None,
        description="Text behind the gap: fill in the middle, with models that have the tokens for "
        "it. An empty text: none.",
    )
    max_tokens: int = 16
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_progress: bool | None = ReturnProgress
    logprobs: int | None = Field(None, ge=0, le=50)
    echo: bool = False
    best_of: int | None = None
    response_format: ResponseFormat | None = None


# Of a request; rank is that of a model.
Pooling = Annotated[
    Literal["mean", "cls", "last"],
    Field(description="null: the server's --pooling, or the model file's."),
]


class EmbeddingRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    input: Annotated[Text | TokenList | Texts | TokenLists, BY_KIND] = Field(
        description="Texts, each a string or token ids of the model's own vocabulary."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, ge=1, description="Keep this many leading components and normalize again."
    )
    user: Annotated[str | None, WithoutEffect(UNMONITORED)] = None
    pooling: Pooling | None = None
    truncate: bool = Field(
        False, description="Truncate texts that are too long instead of rejecting them."
    )


class RerankRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    query: Text
    documents: Texts = Field(min_length=1)
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    pooling: Pooling | None = None
    truncate: bool = False


class TokenizeRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    prompt: Text | None = None
    messages: Annotated[list[Message], FIRST_ERROR] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    tokens: TokenList
    special: bool = Field(False, description="Include special tokens as text.")


class ScoreRequest(Body):
    model: str | None = Field(None, description="null: the server's first model.")
    prompt: Annotated[Text | TokenList, BY_KIND]
    continuations: Texts = Field(min_length=1)
