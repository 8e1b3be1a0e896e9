"""Output, token counts and timing of a finished request."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamaherd._core import FinishReason, InvalidRequestError, Timing, TokenLogprob
from llamaherd.request.assistant_message import AssistantMessage


@dataclass(frozen=True)
class Usage:
    """Token counts of one request.

    Attributes:
      prompt_tokens: Prompt tokens.
      cached_tokens: Prompt tokens that were not computed because their KV data was cached.
      completion_tokens: Output tokens, end-of-generation token included.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class RequestOutput:
    """The output of a finished request.

    Attributes:
      text: Output text, valid Unicode, without stop strings.
      token_ids: Output tokens.
      finish_reason: Why the request ended. After CANCELLED or ERROR, text and token_ids hold the
        output generated before.
      error: Error message if finish_reason is ERROR, else "".
      usage: Token counts.
      timing: Times of submission, start, first token and end; None if the request was rejected
        before it was queued.
      logprobs: With SamplingParams.logprobs: one entry per token of token_ids; else empty.
      prompt_logprobs: With SamplingParams.prompt_logprobs: one entry per prompt token from
        prompt_logprobs_from on; else empty.
      index: Index among the outputs of the prompt, in [0, n), or with best_of in [0, best_of).
      choices: With n or best_of: the n outputs, each a RequestOutput, best or lowest index first.
        This object equals the first, except for usage, which counts all generated outputs.
      reply: For a chat, the parsed message: content, reasoning, tool calls. Else None.
      exception: The exception that error describes, if the request was rejected before it was
        queued. Else None.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    error: str
    usage: Usage
    timing: Timing | None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    index: int = 0
    choices: tuple[RequestOutput, ...] = ()
    reply: AssistantMessage | None = None
    exception: InvalidRequestError | None = field(default=None, compare=False, repr=False)
