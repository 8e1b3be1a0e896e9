"""What a benchmark asks: prompts, and when each is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BenchmarkRequest:
    """One request: a prompt, continued greedily by exactly `max_tokens` tokens."""

    prompt: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Requests, and how they follow one another.

    Attributes:
      chains: Requests of one chain are asked one after the other, each when the one before it is
        answered.
      n_clients: Closed loop: so many chains at once. In an open loop, the requests that contestants
        get room for.
      arrivals_s: Open loop: when each chain begins, in seconds; chains are of one request then.
        Empty: closed.
    """

    chains: tuple[tuple[BenchmarkRequest, ...], ...]
    n_clients: int
    arrivals_s: tuple[float, ...] = ()

    @property
    def asks(self) -> Iterator[BenchmarkRequest]:
        return (ask for chain in self.chains for ask in chain)

    @property
    def max_len(self) -> int:
        """Tokens of the longest request, prompt and output together, at one token a word."""
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
