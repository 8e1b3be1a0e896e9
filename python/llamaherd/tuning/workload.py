"""Workloads: arrival times and lengths of requests, without their text."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaherd._core import InvalidRequestError
from llamaherd.request.result import RequestOutput
from llamaherd.tuning import workload_file
from llamaherd.tuning.workload_file import MAX_BLOCK_SIZE, Request

if TYPE_CHECKING:
    from llamaherd.request.prompt import TokenIds

BLOCK_SIZE = 32

# Requests of a built-in workload: a small CPU runs them in a few seconds.
_N_REQUESTS = {"interactive": 12, "throughput": 32, "mixed": 16}
BUILT_IN = tuple(_N_REQUESTS)

_MEAN_GAP_S = 0.35


@dataclass(frozen=True)
class Workload:
    """Requests in order of arrival; the first arrives at 0 seconds.

    Attributes:
      requests: At least one request.
      block_size: Tokens per block.
    """

    requests: tuple[Request, ...]
    block_size: int = BLOCK_SIZE

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Workload:
        """Read a workload from a file.

        Raises:
          InvalidRequestError: The file cannot be read or is invalid; the message states the line
            and the rule.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"{path} is not valid UTF-8: {error}") from None
        requests, block_size = workload_file.parse(text, name=str(path))
        return cls(requests, block_size)

    @classmethod
    def builtin(cls, name: str, seed: int = 0, *, n_requests: int | None = None) -> Workload:
        """Create a built-in workload.

        Args:
          name: interactive (requests arrive one by one and share a system prompt), throughput (all
            arrive at once and share nothing), or mixed (half arrive at once with a less urgent
            priority, half one by one).
          seed: Equal seeds give equal workloads.
          n_requests: Number of requests, >= 1. None: few enough for a small CPU to run in a few
            seconds.

        Raises:
          InvalidRequestError: The name is unknown, or n_requests is out of range.
        """
        if name not in BUILT_IN:
            raise InvalidRequestError(f"workload must be one of {', '.join(BUILT_IN)}; got {name}")
        if n_requests is not None and n_requests < 1:
            raise InvalidRequestError(f"n_requests must be >= 1; got {n_requests}")
        rng = random.Random(f"{name} {seed}")
        n = n_requests or _N_REQUESTS[name]
        n_batch = {"interactive": 0, "throughput": n, "mixed": n // 2}[name]
        blocks = itertools.count()
        # A priority class of its own only in mixed workloads.
        batch = _batch(rng, n_batch, blocks, 1 if name == "mixed" else 0)
        return cls((*batch, *_arrivals(rng, n - n_batch, blocks)))

    @property
    def max_len(self) -> int:
        """Maximum tokens of a request, prompt and output."""
        return max(request.n_prompt + request.n_output for request in self.requests)

    def first(self, n: int) -> Workload:
        """The first `n` requests, n >= 1."""
        return replace(self, requests=self.requests[:n])

    def prompts(self, n_vocab: int, seed: int = 0) -> list[list[int]]:
        """Random prompts with the recorded lengths and common prefixes (in whole blocks).

        Args:
          n_vocab: Token ids are in [0, n_vocab). Different blocks differ in their first token if at
            most n_vocab blocks follow the same block.
          seed: Equal seeds give equal prompts.

        Returns:
          One list of token ids per request.
          One list of token ids for each request.
        """
        tokens: dict[int, list[int]] = {}
        n_children: dict[int, int] = {}
        first = random.Random(seed).randrange(n_vocab)
        for request in self.requests:
            parent = -1
            for block, n in zip(request.blocks, self._lengths(request.n_prompt), strict=True):
                if block not in tokens:
                    rank = n_children.get(parent, 0)
                    n_children[parent] = rank + 1
                    rng = random.Random(f"{seed} {block}")
                    rest = [rng.randrange(n_vocab) for _ in range(n - 1)]
                    tokens[block] = [(first + rank) % n_vocab, *rest]
                parent = block
        return [[t for block in r.blocks for t in tokens[block]] for r in self.requests]

    def _lengths(self, n_prompt: int) -> Iterator[int]:
        for begin in range(0, n_prompt, self.block_size):
            yield min(self.block_size, n_prompt - begin)


class Recorder:
    """Writes a workload file from finished requests.

    Args:
      path: Overwritten if it exists. The file contains lengths, times and common prefixes, but no
        text or tokens. Memory holds one digest per block.
      block_size: Tokens per block, in [1, 4096].

    Raises:
      InvalidRequestError: block_size is out of range.
      OSError: The file cannot be written.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(self, path: str | os.PathLike[str], *, block_size: int = BLOCK_SIZE) -> None:
        if not 1 <= block_size <= MAX_BLOCK_SIZE:
            raise InvalidRequestError(
                f"block_size must be in [1, {MAX_BLOCK_SIZE}]; got {block_size}"
            )
        self._lock = threading.Lock()
        self._block_size = block_size
        self._blocks: dict[bytes, int] = {}
        self._tenants: dict[str, int] = {}
        self._begin_ns = time.monotonic_ns()
        self._file = open(path, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._write({workload_file.KEY: workload_file.VERSION, "block_size": block_size})

    def add(
        self,
        token_ids: TokenIds,
        result: RequestOutput,
        *,
        priority: int = 0,
        tenant: str | None = None,
        cache_salt: str = "",
    ) -> None:
        """Record a finished request.

        Requests without output tokens are skipped. The arrival time of requests submitted before
        the recorder was created is 0.

        Args:
          token_ids: Prompt tokens.
          result: The request's output.
          priority: Priority at submission.
          tenant: Tenant at submission; recorded as a number.
          cache_salt: Salt at submission: requests with different salts have no common prefix.

        Raises:
          ValueError: The recorder is closed.
          OSError: The file cannot be written.
        """
        if result.timing is None or not result.token_ids:
            return
        with self._lock:
            since_ns = max(0, result.timing.submit_ns - self._begin_ns)
            line: dict[str, Any] = {
                "arrival_s": round(since_ns * 1e-9, 6),
                "n_prompt": len(token_ids),
                "n_output": len(result.token_ids),
                "blocks": self._number(token_ids, cache_salt),
                "priority": priority,
            }
            if tenant is not None:
                line["tenant"] = self._tenants.setdefault(tenant, len(self._tenants))
            self._write(line)

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _number(self, token_ids: TokenIds, cache_salt: str) -> list[int]:
        digest = hashlib.sha256(cache_salt.encode("utf-8", "surrogatepass")).digest()
        numbers = []
        for begin in range(0, len(token_ids), self._block_size):
            tokens = array("q", (int(t) for t in token_ids[begin : begin + self._block_size]))
            digest = hashlib.sha256(digest + tokens.tobytes()).digest()
            numbers.append(self._blocks.setdefault(digest, len(self._blocks)))
        return numbers

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")


def _batch(rng: random.Random, n: int, blocks: Iterator[int], priority: int) -> Iterator[Request]:
    """Prompts without common prefixes, arriving at once."""
    for _ in range(n):
        yield _request(rng, 0.0, (), blocks, priority)


def _arrivals(rng: random.Random, n: int, blocks: Iterator[int]) -> Iterator[Request]:
    """Prompts with a common system prompt of two blocks, arriving at random times."""
    system = (next(blocks), next(blocks))
    arrival_s = 0.0
    for _ in range(n):
        yield _request(rng, arrival_s, system, blocks, 0)
        arrival_s += rng.expovariate(1 / _MEAN_GAP_S)


def _request(
    rng: random.Random,
    arrival_s: float,
    shared: tuple[int, ...],
    blocks: Iterator[int],
    priority: int,
) -> Request:
    n_own = rng.randint(16, 64)
    own = (next(blocks) for _ in range(0, n_own, BLOCK_SIZE))
    return Request(
        arrival_s=arrival_s,
        n_prompt=len(shared) * BLOCK_SIZE + n_own,
        n_output=rng.randint(8, 24),
        blocks=(*shared, *own),
        priority=priority,
    )
