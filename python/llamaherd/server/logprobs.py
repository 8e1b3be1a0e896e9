"""Log-probabilities as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamaherd._core import TokenLogprob
from llamaherd.engine import BatchEngine


class TokenTexts:
    """What tokens are called: their text, or of special ones their name."""

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine

    def bytes_of(self, token: int) -> bytes:
        piece = self._engine.token_bytes(token)
        return piece or self._engine.detokenize([token], special=True).encode()

    def text_of(self, token: int) -> str:
        return self.bytes_of(token).decode(errors="replace")


def chat_logprobs(
    texts: TokenTexts, logprobs: Sequence[TokenLogprob], n_top: int
) -> dict[str, Any]:
    """The logprobs of a chat choice."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        piece = texts.bytes_of(token)
        return {
            "token": piece.decode(errors="replace"),
            "logprob": logprob,
            "bytes": list(piece),
        }

    content = []
    for entry in logprobs:
        top = [one(token, logprob) for token, logprob in entry.top[:n_top]]
        content.append({**one(entry.token_id, entry.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_logprobs(
    texts: TokenTexts, logprobs: Sequence[TokenLogprob], first: int | None = None
) -> dict[str, Any]:
    """The logprobs of a completion; `first` is a prompt's first token, which has none."""
    tokens: list[str] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    if first is not None:
        tokens.append(texts.text_of(first))
        values.append(None)
        tops.append(None)
        offsets.append(0)
    for entry in logprobs:
        tokens.append(texts.text_of(entry.token_id))
        values.append(entry.logprob)
        tops.append({texts.text_of(token): logprob for token, logprob in entry.top})
        offsets.append(entry.text_offset)
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": offsets,
    }
