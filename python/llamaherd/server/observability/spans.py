"""What is told of each request, for those who trace them."""

from __future__ import annotations

from collections.abc import Mapping

from llamaherd._core import FinishReason, Timing
from llamaherd.config.params import SamplingParams


class Span:
    """One request, from its headers to the end of its answer; this one is not traced."""

    def model(self, name: str) -> None:
        """Which one it asks for."""

    def params(self, params: SamplingParams) -> None:
        """How it is to be answered."""

    def prompt(self, n_prompt: int, n_cached: int) -> None:
        """The tokens of one of its prompts, and how many of them were not computed."""

    def output(self, timing: Timing | None, n_completion: int, reason: FinishReason) -> None:
        """One of its outputs has ended."""

    def cancelled(self) -> None:
        """Its client has left, or the server stops."""

    def end(self, status: int) -> None:
        """It is over; status 0: it was never answered."""


class Spans:
    """Where requests are traced; here they are not."""

    def begin(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Span:
        """One more request."""
        return Span()

    def close(self) -> None:
        """Returns when all have gone where they go."""
