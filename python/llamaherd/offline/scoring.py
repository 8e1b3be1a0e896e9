"""Log-probabilities and perplexity for `LLM.score`, `LLM.choose` and `LLM.perplexity`."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from llamaherd._core import FinishReason, InvalidRequestError, TokenLogprob
from llamaherd.config.params import SamplingParams
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.request.infill import InfillPrompt
from llamaherd.request.prompt import Prompt, TokenIds, is_messages
from llamaherd.request.result import RequestOutput

Continuation: TypeAlias = "str | TokenIds"


@dataclass(frozen=True)
class Score:
    """Log-probabilities of the tokens of a continuation, each given all tokens before it.

    Attributes:
      tokens: One entry per token of the continuation.
      error: Error message if prompt or continuation is invalid, then tokens is empty; else "".
      exception: The exception that error describes; None without one.
    """

    tokens: list[TokenLogprob]
    error: str = ""
    exception: InvalidRequestError | None = field(default=None, compare=False, repr=False)

    @property
    def logprob(self) -> float:
        """Natural logarithm of the continuation's probability; NaN if there was an error."""
        return math.nan if self.error else math.fsum(token.logprob for token in self.tokens)

    @property
    def mean_logprob(self) -> float:
        """logprob divided by the number of tokens."""
        return self.logprob / len(self.tokens) if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """exp(-mean_logprob)."""
        return math.exp(-self.mean_logprob)

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the most likely one, so that greedy decoding generates the text."""
        return not self.error and all(token.rank == 1 for token in self.tokens)


_CANCELLED = Score([], "the request was cancelled")


@dataclass(frozen=True)
class Choice:
    """The most likely of several continuations.

    Attributes:
      index: Its index in choices.
      text: Its text.
      scores: The scores of all choices, in order.
    """

    index: int
    text: str
    scores: list[Score]


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of texts.

    Attributes:
      texts: The score of each text.
    """

    texts: list[Score]

    @property
    def value(self) -> float:
        """exp of the negative mean log-probability per token of all texts; NaN without tokens."""
        return join(score for score in self.texts if not score.error).perplexity


@dataclass(frozen=True)
class Piece:
    """Tokens, of which those from an index on are scored."""

    tokens: list[int]
    begin: int

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=0, prompt_logprobs=0, prompt_logprobs_from=self.begin, temperature=0
        )


def score_of(result: RequestOutput) -> Score:
    if result.finish_reason is FinishReason.CANCELLED:
        return _CANCELLED
    return Score(result.prompt_logprobs, result.error, result.exception)


def join(scores: Iterable[Score]) -> Score:
    """The joint score of consecutive pieces, or the first score with an error."""
    tokens: list[TokenLogprob] = []
    for score in scores:
        if score.error:
            return score
        tokens += score.tokens
    return Score(tokens)


def encode(
    engine: BatchEngine,
    prompt: Prompt,
    continuations: Sequence[Continuation],
    stop: threading.Event | None = None,
) -> list[Piece | Score]:
    """Tokenize a prompt with each continuation; invalid ones become scores with an error.

    Two texts are tokenized as one text. If a token spans the border, it and all later tokens count
    as the continuation. After `stop` is set, the rest is cancelled.
    """
    try:
        if is_messages(prompt):
            prompt = engine.apply_chat_template(prompt).text
        text = prompt if isinstance(prompt, str) else None
        if text is not None:
            before = engine._preparer.encode(text)
        elif isinstance(prompt, InfillPrompt):
            before = engine._tokenizer.encode_infill(prompt, engine.model_info()["max_len"])
        else:
            before = _as_ids(cast("TokenIds", prompt))
    except InvalidRequestError as error:
        return [Score([], str(error), error)] * len(continuations)

    def encode_one(continuation: Continuation) -> Piece | Score:
        if stop is not None and stop.is_set():
            return _CANCELLED
        try:
            return _piece(engine, text, before, continuation)
        except InvalidRequestError as error:
            return Score([], str(error), error)

    return [encode_one(continuation) for continuation in continuations]


def _piece(
    engine: BatchEngine, text: str | None, before: list[int], continuation: Continuation
) -> Piece:
    begin = len(before)
    if not isinstance(continuation, str):
        whole = [*before, *_as_ids(continuation)]
    elif text is None:
        whole = [*before, *engine.tokenize(continuation, add_special=False)]
    else:
        whole = engine._preparer.encode(text + continuation)
        pairs = enumerate(zip(before, whole, strict=False))
        begin = next((i for i, (a, b) in pairs if a != b), min(len(before), len(whole)))
    if len(whole) == begin:
        raise InvalidRequestError("a continuation must have at least 1 token; got 0")
    return Piece(whole, begin) if begin > 0 else Piece([first_token(engine), *whole], 1)


def cut(engine: BatchEngine, text: str, n_most: int, stride: int) -> list[Piece]:
    """Split a text into pieces that score each token once. The context of a token is up to
    n_most - 1 tokens, and after the first piece at least n_most - stride - 1."""
    first = first_token(engine)
    tokens = engine.tokenize(text)
    if tokens[:1] != [first]:
        tokens = [first, *tokens]
    pieces = []
    n_scored = 1
    while n_scored < len(tokens):
        end = min(len(tokens), n_most if n_scored == 1 else n_scored + stride)
        begin = max(0, end - n_most)
        pieces.append(Piece(tokens[begin:end], n_scored - begin))
        n_scored = end
    return pieces


def first_token(engine: BatchEngine) -> int:
    """The token that begins a text: the model's begin token, else its end token.

    Raises:
      InvalidRequestError: The model has neither.
    """
    metadata = engine.model_info()["metadata"]
    for name in ("bos", "eos"):
        token = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None:
            return int(token)
    raise InvalidRequestError(
        "the model has neither a begin nor an end token: the prompt must have at least 1 token"
    )


def _as_ids(token_ids: TokenIds) -> list[int]:
    return [int(token) for token in token_ids]
