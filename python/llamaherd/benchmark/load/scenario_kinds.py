"""Named scenarios. Each round generates new prompts from a seed, so that no round hits cached
prefixes of an earlier one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from llamaherd._core import InvalidRequestError
from llamaherd.benchmark.load.arrival import poisson
from llamaherd.benchmark.load.scenario import BenchmarkRequest, Scenario
from llamaherd.benchmark.load.synthetic_text import synthetic_text


@dataclass(frozen=True)
class Size:
    """Size of a scenario: total chains, concurrent clients, and requests per second of open
    loops."""

    n_chains: int
    n_clients: int
    rate: float


@dataclass(frozen=True)
class Kind:
    """A named scenario: description and factory."""

    about: str
    make: Callable[[random.Random, Size], Scenario]
    size: Size = Size(24, 8, 4.0)


def make(name: str, seed: int, size: Size) -> Scenario:
    """Create a named scenario.

    Raises:
      InvalidRequestError: The name is unknown, or a size is out of range.
    """
    if name not in KINDS:
        raise InvalidRequestError(f"a workload must be one of {', '.join(KINDS)}; got {name}")
    if size.n_chains < 1 or size.n_clients < 1:
        raise InvalidRequestError(
            f"requests and clients must be >= 1; got {size.n_chains} and {size.n_clients}"
        )
    if not size.rate > 0:
        raise InvalidRequestError(f"rate must be > 0; got {size.rate}")
    return KINDS[name].make(random.Random(f"{name} {seed}"), size)


def _questions(
    n_shared: int, n_own: int, n_output: int
) -> Callable[[random.Random, Size], Scenario]:
    """Prompts with a common prefix and distinct suffixes."""

    def make(rng: random.Random, size: Size) -> Scenario:
        shared = synthetic_text(rng, n_shared)
        asks = [
            BenchmarkRequest(f"{shared} {synthetic_text(rng, n_own)}".strip(), n_output)
            for _ in range(size.n_chains)
        ]
        return Scenario(chains=_single(asks), n_clients=size.n_clients)

    return make


def _single(asks: Sequence[BenchmarkRequest]) -> tuple[tuple[BenchmarkRequest, ...], ...]:
    """One chain per request."""
    return tuple((ask,) for ask in asks)


def _agents(rng: random.Random, size: Size) -> Scenario:
    system = synthetic_text(rng, 1200)

    def conversation() -> tuple[BenchmarkRequest, ...]:
        turns, text = [], system
        for _ in range(3):
            text = f"{text} {synthetic_text(rng, rng.randint(40, 120))}"
            turns.append(BenchmarkRequest(text, 48))
            text = f"{text} {synthetic_text(rng, 48)}"  # stands for the output
        return tuple(turns)

    return Scenario(
        chains=tuple(conversation() for _ in range(size.n_chains)), n_clients=size.n_clients
    )


def _code_completion(rng: random.Random, size: Size) -> Scenario:
    shared = synthetic_text(rng, 512)

    def developer() -> tuple[BenchmarkRequest, ...]:
        text, asks = f"{shared} {synthetic_text(rng, 128)}", []
        for _ in range(4):
            text = f"{text} {synthetic_text(rng, 12)}"  # typed in the meantime
            asks.append(BenchmarkRequest(text, 24))
        return tuple(asks)

    return Scenario(
        chains=tuple(developer() for _ in range(size.n_chains)), n_clients=size.n_clients
    )


def _long_prompt(rng: random.Random, size: Size) -> Scenario:
    asks = [BenchmarkRequest(synthetic_text(rng, 32), 300) for _ in range(size.n_chains - 1)]
    asks.append(BenchmarkRequest(synthetic_text(rng, 4000), 16))
    arrivals_s = (*[0.0] * (size.n_chains - 1), 0.5)
    return Scenario(chains=_single(asks), n_clients=size.n_chains, arrivals_s=arrivals_s)


_CHAT = _questions(640, 24, 64)


def _poisson(rng: random.Random, size: Size) -> Scenario:
    arrivals_s = tuple(islice(poisson(size.rate, rng.randrange(2**31)), size.n_chains))
    return replace(_CHAT(rng, size), arrivals_s=arrivals_s)


KINDS = {
    "chat": Kind("system prompt of 640 tokens, questions of 24, outputs of 64", _CHAT),
    "unshared": Kind(
        "prompts of 140 tokens without a common prefix, outputs of 64", _questions(0, 140, 64)
    ),
    "agents": Kind(
        "conversations after a prefix of 1,200 tokens, 3 turns of 40 to 120 tokens, outputs of 48",
        _agents,
        Size(8, 8, 4.0),
    ),
    "documents": Kind(
        "questions of 24 tokens about a document of 2,000, outputs of 48",
        _questions(2000, 24, 48),
        Size(16, 8, 4.0),
    ),
    "code-completion": Kind(
        "developers with 512 common and 128 own tokens, 4 completions of 24 tokens each, 12 tokens"
        " typed in between",
        _code_completion,
        Size(8, 8, 4.0),
    ),
    "long-prompt": Kind(
        "a prompt of 4,000 tokens arrives while others (32 tokens, outputs of 300) are decoding",
        _long_prompt,
        Size(5, 5, 4.0),
    ),
    "poisson": Kind("requests of chat at random times", _poisson),
}
