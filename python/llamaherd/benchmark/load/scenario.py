"""Scenarios: prompts and their arrival."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BenchmarkRequest:
    """A prompt, to be continued greedily by exactly `max_tokens` tokens."""

    prompt: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Requests and their arrival.

    Attributes:
      chains: Lists of requests; each request of a chain is sent after the response to the previous.
      n_clients: Closed loop: concurrent chains. Open loop: maximum concurrent requests that
        contestants are configured for.
      arrivals_s: Open loop: start times of chains in seconds; chains have one request each. Empty:
        closed loop.
    """

    chains: tuple[tuple[BenchmarkRequest, ...], ...]
    n_clients: int
    arrivals_s: tuple[float, ...] = ()

    @property
    def asks(self) -> Iterator[BenchmarkRequest]:
        return (ask for chain in self.chains for ask in chain)

    @property
    def max_len(self) -> int:
        """Tokens of the longest request, prompt and output together, at one token per word."""
        return max(n_words(ask.prompt) + ask.max_tokens for ask in self.asks)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Scenario:
        chains = tuple(
            tuple(BenchmarkRequest(**ask) for ask in chain) for chain in values["chains"]
        )
        return cls(
            chains=chains, n_clients=values["n_clients"], arrivals_s=tuple(values["arrivals_s"])
        )


def n_words(text: str) -> int:
    return len(text.split())
