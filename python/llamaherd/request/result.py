"""What a finished request is worth: its text, tokens and figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamaherd._core import FinishReason, Timing, TokenLogprob
from llamaherd.request.chat import AssistantMessage


@dataclass(frozen=True)
class Usage:
    """Tokens of one request.

    Attributes:
      prompt_tokens: Prompt tokens.
      cached_tokens: Of these, tokens that did not have to be computed.
      completion_tokens: Output tokens, an end-of-generation token included.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class RequestOutput:
    """A finished request.

    Attributes:
      text: The output, valid Unicode, without stop strings.
      token_ids: The output's tokens.
      finish_reason: How it ended. After CANCELLED or ERROR, text and token_ids hold what was
        generated before.
      error: What went wrong if finish_reason is ERROR, else "".
      usage: Token counts.
      timing: When it was submitted, started, gave its first token and ended; None if it was refused
        before it was queued.
      logprobs: With SamplingParams.logprobs: one for each of token_ids; else empty.
      prompt_logprobs: With SamplingParams.prompt_logprobs: one for each prompt token from
        prompt_logprobs_from on; else empty.
      index: Of the output among those of its prompt, in [0, n), or with best_of in [0, best_of).
      choices: With n or best_of: the n outputs, each a result, best or lowest index first. This
        result is the first of them, but for its usage, which is of all that was generated.
      reply: Of chat messages, the answer taken apart: content, reasoning, tool calls. Else None.
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
