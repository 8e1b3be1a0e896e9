"""Schemas of responses, for the OpenAPI schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: int | None = Field(
        None, description="With context_length_exceeded: tokens of the prompt, or a lower bound."
    )
    n_ctx: int | None = Field(
        None, description="With context_length_exceeded: tokens that prompt and output may have."
    )


class ErrorAnswer(BaseModel):
    error: ErrorDetail


_ERROR_TEXTS = {
    400: "The request is invalid; the message states the rule.",
    401: "A valid API key is required.",
    404: "The model or object does not exist.",
    405: "The path does not support the method.",
    413: "The body is too large.",
    429: "Too many requests are queued or running; retry after the time in retry-after.",
    431: "The headers are too large.",
    500: "Internal server error.",
    503: "The model or the server is unavailable.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _ERROR_TEXTS.items()
}


def events(text: str) -> dict[str, Any]:
    """OpenAPI description of a response as server-sent events."""
    fields = {"data": {"type": "string"}, "event": {"type": "string"}}
    schema = {"type": "object", "properties": fields, "required": ["data"]}
    return {"description": text, "content": {"text/event-stream": {"schema": schema}}}


class PromptDetails(BaseModel):
    cached_tokens: int


class CompletionDetails(BaseModel):
    reasoning_tokens: int


class UsageAnswer(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class FunctionAnswer(BaseModel):
    name: str
    arguments: str


class ToolCallAnswer(BaseModel):
    id: str
    type: Literal["function"]
    function: FunctionAnswer


class MessageAnswer(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallAnswer] | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobAnswer(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprobAnswer]
    refusal: None


FinishReasonName = Literal["stop", "length", "tool_calls", "deadline"]


class ChatChoice(BaseModel):
    index: int
    message: MessageAnswer
    finish_reason: FinishReasonName
    logprobs: ChatLogprobs | None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageAnswer


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    finish_reason: Literal["stop", "length", "deadline"]
    logprobs: CompletionLogprobs | None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageAnswer


class Timings(BaseModel):
    """Counts of tokens and times of their computation."""

    cache_n: int = Field(description="Prompt tokens from the prefix cache.")
    prompt_n: int = Field(description="Prompt tokens that were computed.")
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class GenerationSettings(BaseModel):
    n_ctx: int
    n_predict: int


class Infill(BaseModel):
    """Fields that response_fields does not name are absent."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required", None))

    index: int
    content: str
    tokens: list[int]
    stop: bool
    model: str
    tokens_predicted: int
    tokens_evaluated: int = Field(description="Prompt tokens.")
    has_new_line: bool
    truncated: bool = Field(description="Whether max_model_len ended the text.")
    stop_type: Literal["eos", "word", "limit"]
    stopping_word: str
    tokens_cached: int = Field(description="Tokens of prompt and text that are in the KV cache.")
    generation_settings: GenerationSettings
    timings: Timings


class EmbeddingAnswer(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    object: Literal["list"]
    model: str
    data: list[EmbeddingAnswer]
    usage: EmbeddingUsage


class RankedText(BaseModel):
    text: str


class RankedAnswer(BaseModel):
    index: int
    relevance_score: float
    document: RankedText | None = None


class Ranking(BaseModel):
    model: str
    results: list[RankedAnswer]


class Modalities(BaseModel):
    input_modalities: list[str]
    output_modalities: list[str] | None = Field(
        description="text, embeddings, rerank; null: the model is not on this machine yet."
    )


class ModelMeta(BaseModel):
    n_vocab: int
    n_ctx_train: int = Field(description="Trained context length in tokens.")
    n_embd: int
    n_params: int
    size: int = Field(description="Bytes of the weights.")
    ftype: str = Field(
        description="Type of the weights by llama.cpp's name, such as Q4_K - Medium."
    )
    architecture: str


class ModelAnswer(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loaded: bool
    max_model_len: int | None = Field(
        description="Maximum tokens of a request, prompt and output; null: not loaded yet."
    )
    architecture: Modalities
    meta: ModelMeta | None = Field(description="null: the model is not on this machine yet.")


class Models(BaseModel):
    object: Literal["list"]
    data: list[ModelAnswer]


class Tokens(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int


class TokenText(BaseModel):
    prompt: str


class ScoreAnswer(BaseModel):
    index: int
    logprob: float
    token_logprobs: list[float]
    is_greedy: bool


class Scores(BaseModel):
    model: str
    results: list[ScoreAnswer]


class State(BaseModel):
    status: str


class InputDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int = Field(
        description="Prompt tokens that were computed, and may be reused by later requests."
    )


class OutputDetails(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens", "deadline"]


class ResponseAnswer(BaseModel):
    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete", "in_progress"]
    error: None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    store: Literal[False]
    temperature: float | None
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
