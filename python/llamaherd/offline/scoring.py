"""How likely texts are: what `LLM.score`, `LLM.choose` and `LLM.perplexity` ask of an engine."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from llamaherd._core import FinishReason, InvalidRequestError, TokenLogprob
from llamaherd.config.params import SamplingParams
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.request.prompt import Prompt, TokenIds, is_messages
from llamaherd.request.result import RequestOutput

Continuation: TypeAlias = "str | TokenIds"


@dataclass(frozen=True)
class Score:
    """Log-probabilities of the tokens of a continuation, each given all before it.

    Attributes:
      tokens: One for each token.
      error: The rule that prompt and continuation break; then there are no tokens. Else "".
    """

    tokens: list[TokenLogprob]
    error: str = ""

    @property
    def logprob(self) -> float:
        """Natural logarithm of the continuation's probability; NaN after an error."""
        return math.nan if self.error else math.fsum(token.logprob for token in self.tokens)

    @property
    def mean_logprob(self) -> float:
        """The same per token."""
        return self.logprob / len(self.tokens) if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """exp(-mean_logprob)."""
        return math.exp(-self.mean_logprob)

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would yield the continuation: each token is the likeliest."""
        return not self.error and all(token.rank == 1 for token in self.tokens)


_CANCELLED = Score([], "the request was cancelled")


@dataclass(frozen=True)
class Choice:
    """The likeliest of some continuations.

    Attributes:
      index: Of it among the choices.
      text: It.
      scores: Of all choices, in their order.
    """

    index: int
    text: str
    scores: list[Score]


@dataclass(frozen=True)
class Perplexity:
    """Of some texts.

    Attributes:
      texts: Each text's score.
    """

    texts: list[Score]

    @property
    def value(self) -> float:
        """exp of minus the mean log-probability of all texts' tokens; NaN if there is none."""
        return join(score for score in self.texts if not score.error).perplexity


@dataclass(frozen=True)
class Piece:
    """Tokens of which those from an index on are to be scored."""

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
    return Score(result.prompt_logprobs, result.error)


def join(scores: Iterable[Score]) -> Score:
    """The score of pieces that follow each other; their first error, if there is one."""
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
    """Tokens of a prompt with each of some continuations, or why they are refused.

    Two texts are tokenized as one, so a token may span the border: it, and all behind it, count as
    the continuation's. Once `stop` is set the rest is given up.
    """
    try:
        if is_messages(prompt):
            prompt = engine.apply_chat_template(prompt).text
        text = prompt if isinstance(prompt, str) else None
        before = (
            engine._preparer.encode(text) if text is not None else _as_ids(cast("TokenIds", prompt))
        )
    except InvalidRequestError as error:
        return [Score([], str(error))] * len(continuations)

    def encode_one(continuation: Continuation) -> Piece | Score:
        if stop is not None and stop.is_set():
            return _CANCELLED
        try:
            return _piece(engine, text, before, continuation)
        except InvalidRequestError as error:
            return Score([], str(error))

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
    """A text in pieces by which each of its tokens is scored once, with up to n_most - 1 before it
    and, but for those of the first piece, at least n_most - stride - 1."""
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
    """What the model sees before a text: its begin token, else its end token.

    Raises:
      InvalidRequestError: It has neither.
    """
    metadata = engine.model_info()["metadata"]
    for name in ("bos", "eos"):
        token = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None:
            return int(token)
    raise InvalidRequestError(
        "the model names no token to begin with: give a prompt of at least 1 token"
    )


def _as_ids(token_ids: TokenIds) -> list[int]:
    return [int(token) for token in token_ids]
