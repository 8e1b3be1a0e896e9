"""What a finished request is worth: its text, tokens and figures."""

from __future__ import annotations

from dataclasses import dataclass

from llamaherd._core import FinishReason, Timing


@dataclass(frozen=True)
class Usage:
    """Tokens of one request.

    Attributes:
      n_prompt: Prompt tokens.
      n_cached: Of these, tokens that did not have to be computed.
      n_completion: Output tokens, an end-of-generation token included.
    """

    n_prompt: int
    n_cached: int
    n_completion: int


@dataclass(frozen=True)
class Result:
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
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    error: str
    usage: Usage
    timing: Timing | None
