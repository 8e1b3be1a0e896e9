"""Adapter for EleutherAI's lm-evaluation-harness. Does not import the harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llamaherd._core import InvalidRequestError
from llamaherd.config.params import SamplingParams
from llamaherd.offline.llm import LLM
from llamaherd.offline.scoring import Score

# Default of the harness.
_MAX_TOKENS = 256


class EvaluationRequest(Protocol):
    """The used part of the harness's ``Instance``."""

    @property
    def args(self) -> tuple[Any, ...]: ...


class LmEvalAdapter:
    """The three request types of lm-evaluation-harness, batched.

    To register it, derive a class from this one and from ``lm_eval.api.model.LM``.

    Args:
      llm: The model.

    Thread safety:
      As `LLM`.
    """

    def __init__(self, llm: LLM) -> None:
        self.llm = llm

    def loglikelihood(self, requests: Sequence[EvaluationRequest]) -> list[tuple[float, bool]]:
        """Compute, for each (context, continuation), its log-probability and whether it is greedy.

        Trailing spaces of the context are scored with the continuation, because tokens begin with
        spaces.

        Raises:
          InvalidRequestError: A pair is invalid.
        """
        contexts: list[str] = []
        continuations: list[list[str]] = []
        for request in requests:
            context, continuation = request.args
            stripped = context.rstrip()
            contexts.append(stripped)
            continuations.append([context[len(stripped) :] + continuation])
        scores = self.llm.score(contexts, continuations)
        return [(_checked(score).logprob, score.is_greedy) for [score] in scores]

    def loglikelihood_rolling(self, requests: Sequence[EvaluationRequest]) -> list[float]:
        """Compute the log-probability of each (text,) in windows of max_len tokens that overlap by
        one token.

        Raises:
          InvalidRequestError: A text is invalid.
        """
        most = int(self.llm.engine.model_info()["max_len"])
        texts = [request.args[0] for request in requests]
        scored = self.llm.perplexity(texts, max_len=most, stride=most - 1)
        return [_checked(score).logprob for score in scored.texts]

    def generate_until(self, requests: Sequence[EvaluationRequest]) -> list[str]:
        """Generate, for each (context, options), the text before the first of options["until"].

        Options: until, max_gen_toks, do_sample, temperature, top_p, top_k.

        Raises:
          InvalidRequestError: An option is unknown, or a context is invalid.
        """
        results = self.llm.generate(
            [request.args[0] for request in requests],
            [_as_params(request.args[1]) for request in requests],
        )
        for result in results:
            if result.error:
                raise InvalidRequestError(result.error)
        return [result.text for result in results]


def _checked(score: Score) -> Score:
    if score.error:
        raise InvalidRequestError(score.error)
    return score


def _as_params(options: Mapping[str, Any]) -> SamplingParams:
    left = dict(options)
    until = left.pop("until", ())
    samples = left.pop("do_sample", left.get("temperature", 0) > 0)
    temperature = left.pop("temperature", 1.0)
    params: dict[str, Any] = {
        "stop": (until,) if isinstance(until, str) else tuple(until),
        "max_tokens": left.pop("max_gen_toks", _MAX_TOKENS),
        "temperature": float(temperature) if samples else 0.0,
        "top_p": float(left.pop("top_p", 1.0)),
        "top_k": left.pop("top_k", 0),
    }
    if left:
        raise InvalidRequestError(f"unknown option {next(iter(left))!r} of generate_until")
    return SamplingParams(**params)
