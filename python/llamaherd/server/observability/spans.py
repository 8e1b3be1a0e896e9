"""Interface for tracing requests."""

from __future__ import annotations

from collections.abc import Mapping

from llamaherd._core import FinishReason, Timing
from llamaherd.config.params import SamplingParams


class Span:
    """One request, from its headers to the end of its response; this base class records nothing."""

    def model(self, name: str) -> None:
        """Set the requested model."""

    def params(self, params: SamplingParams) -> None:
        """Set the sampling parameters."""

    def prompt(self, n_prompt: int, n_cached: int) -> None:
        """Record a prompt: its tokens, and how many of them were cached."""

    def output(self, timing: Timing | None, n_completion: int, reason: FinishReason) -> None:
        """Record a finished output."""

    def cancelled(self) -> None:
        """Record a cancellation: the client disconnected, or the server is stopping."""

    def end(self, status: int) -> None:
        """End the span; status 0: no response was sent."""


class Spans:
    """Creates the spans of requests; this base class traces nothing."""

    def begin(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Span:
        """Start the span of a request."""
        return Span()

    def close(self) -> None:
        """Export all pending spans."""
