"""Log-probabilities in OpenAI's format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llamaherd._core import TokenLogprob
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.server.api.json_stream import Items

# OpenAI's value for impossible tokens; JSON has no infinity.
_LEAST = -9999.0


class TokenTexts:
    """Text of tokens; of special tokens their name."""

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine
        self._known: dict[int, tuple[bytes, str]] = {}

    def of(self, token: int) -> tuple[bytes, str]:
        """Bytes of a token, and their text."""
        known = self._known.get(token)
        if known is None:
            piece = self._engine.token_bytes(token)
            piece = piece or self._engine.detokenize([token], special=True).encode()
            known = self._known[token] = piece, piece.decode(errors="replace")
        return known

    def text_of(self, token: int) -> str:
        return self.of(token)[1]


def chat_logprobs(
    texts: TokenTexts, logprobs: Sequence[TokenLogprob], n_top: int
) -> dict[str, Any]:
    """The logprobs of a chat choice."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        piece, text = texts.of(token)
        return {"token": text, "logprob": max(logprob, _LEAST), "bytes": list(piece)}

    def content() -> Iterator[dict[str, Any]]:
        for entry in logprobs:
            top = [one(token, logprob) for token, logprob in entry.top[:n_top]]
            yield {**one(entry.token_id, entry.logprob), "top_logprobs": top}

    return {"content": Items(content()), "refusal": None}


def completion_logprobs(
    texts: TokenTexts, logprobs: Sequence[TokenLogprob], first: int | None = None
) -> dict[str, Any]:
    """The logprobs of a completion; `first` is a prompt's first token, which has no logprob."""
    tokens: list[str] = []
    values: list[float | None] = []
    offsets: list[int] = []
    if first is not None:
        tokens.append(texts.text_of(first))
        values.append(None)
        offsets.append(0)
    for entry in logprobs:
        tokens.append(texts.text_of(entry.token_id))
        values.append(max(entry.logprob, _LEAST))
        offsets.append(entry.text_offset)

    def tops() -> Iterator[dict[str, float] | None]:
        if first is not None:
            yield None
        for entry in logprobs:
            yield {texts.text_of(token): max(logprob, _LEAST) for token, logprob in entry.top}

    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": Items(tops()),
        "text_offset": offsets,
    }
