"""How likely texts are: what `LLM.score`, `LLM.choose` and `LLM.perplexity` ask of an engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from llamaherd._core import InvalidRequestError, TokenLogprob
from llamaherd.engine import BatchEngine, Prompt, TokenIds, is_messages
from llamaherd.params import SamplingParams
from llamaherd.result import Result

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
      value: exp of minus the mean log-probability of all tokens of all texts; NaN if there is none.
      texts: Each text's score.
    """

    value: float
    texts: list[Score]


def as_prompt(token_ids: list[int], scored_from: int) -> tuple[list[int], SamplingParams]:
    """A request for the log-probabilities of the tokens from scored_from on."""
    params = SamplingParams(
        max_tokens=0, prompt_logprobs=0, prompt_logprobs_from=scored_from, temperature=0
    )
    return token_ids, params


def as_score(result: Result) -> Score:
    return Score(result.prompt_logprobs, result.error)


def encode_pair(
    engine: BatchEngine, prompt: Prompt, continuation: Continuation
) -> tuple[list[int], int]:
    """Tokens of both together, and where the continuation begins.

    Two texts are tokenized as one, so a token may span the border: it, and all behind it, count as
    the continuation's.

    Raises:
      InvalidRequestError: The continuation has no tokens, or a prompt of no tokens meets a model
        without a token to begin with.
    """
    if is_messages(prompt):
        prompt = engine.apply_chat_template(prompt)[0]
    if isinstance(prompt, str) and isinstance(continuation, str):
        before, whole = engine.tokenize(prompt), engine.tokenize(prompt + continuation)
        begin = 0
        while begin < min(len(before), len(whole)) and before[begin] == whole[begin]:
            begin += 1
    else:
        before = (
            engine.tokenize(prompt) if isinstance(prompt, str) else as_ids(cast("TokenIds", prompt))
        )
        if isinstance(continuation, str):
            continuation = engine.tokenize(continuation, add_special=False)
        whole, begin = [*before, *as_ids(continuation)], len(before)
    if len(whole) == begin:
        raise InvalidRequestError("a continuation must have at least 1 token; got 0")
    if begin == 0:
        return [first_token(engine), *whole], 1
    return whole, begin


def as_ids(token_ids: TokenIds) -> list[int]:
    return [int(token) for token in token_ids]


def first_token(engine: BatchEngine) -> int:
    """What the model sees before a text: its begin token, else its end token."""
    metadata = engine.model_info()["metadata"]
    for name in ("bos", "eos"):
        token = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None:
            return int(token)
    raise InvalidRequestError(
        "the model names no token to begin with: give a prompt of at least 1 token"
    )


def windows(tokens: Sequence[int], n_most: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Pieces of a text of which each token but the first is scored once, with up to n_most - 1
    tokens before it and, but for the first piece, at least n_most - stride - 1.

    Yields:
      A piece, and the index in it of the first token to score.
    """
    n_scored = 1
    while n_scored < len(tokens):
        end = min(len(tokens), n_most if n_scored == 1 else n_scored + stride)
        begin = max(0, end - n_most)
        yield list(tokens[begin:end]), n_scored - begin
        n_scored = end
