"""Workloads: requests as they came, without what they said."""

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

# Requests of each that is made up: a small CPU runs them in a few seconds.
_N_REQUESTS = {"interactive": 12, "throughput": 32, "mixed": 16}
BUILT_IN = tuple(_N_REQUESTS)

_MEAN_GAP_S = 0.35


@dataclass(frozen=True)
class Workload:
    """Requests in order of arrival, the first at 0 seconds.

    Attributes:
      requests: At least one.
      block_size: Tokens of a block.
    """

    requests: tuple[Request, ...]
    block_size: int = BLOCK_SIZE

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Workload:
        """The workload in a file.

        Raises:
          InvalidRequestError: The file cannot be read or breaks a rule; the message names the line
            and the rule.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except OSError as error:
            raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"{path} is not valid UTF-8: {error}") from None
        requests, block_size = workload_file.parse(text, name=str(path))
        return cls(requests, block_size)

    @classmethod
    def builtin(cls, name: str, seed: int = 0, *, n_requests: int | None = None) -> Workload:
        """One that is made up.

        Args:
          name: interactive (requests that come one by one, with a system prompt in common),
            throughput (all at once, nothing in common), or mixed (half of them at once, of a less
            urgent class, and half one by one).
          seed: The same seed gives the same workload.
          n_requests: How many, >= 1. None: as many as a small CPU runs in a few seconds.

        Raises:
          InvalidRequestError: There is none of this name, or n_requests is out of range.
        """
        if name not in BUILT_IN:
            raise InvalidRequestError(f"workload must be one of {', '.join(BUILT_IN)}; got {name}")
        if n_requests is not None and n_requests < 1:
            raise InvalidRequestError(f"n_requests must be >= 1; got {n_requests}")
        rng = random.Random(f"{name} {seed}")
        n = n_requests or _N_REQUESTS[name]
        n_batch = {"interactive": 0, "throughput": n, "mixed": n // 2}[name]
        blocks = itertools.count()
        # Of a class of its own only where another is more urgent.
        batch = _batch(rng, n_batch, blocks, 1 if name == "mixed" else 0)
        return cls((*batch, *_arrivals(rng, n - n_batch, blocks)))

    @property
    def max_len(self) -> int:
        """Tokens of the longest request, prompt and output together."""
        return max(request.n_prompt + request.n_output for request in self.requests)

    def first(self, n: int) -> Workload:
        """Only the `n` requests that come first, n >= 1; all if there are no more."""
        return replace(self, requests=self.requests[:n])

    def prompts(self, n_vocab: int, seed: int = 0) -> list[list[int]]:
        """Prompts of these lengths that have in common what these had, to the block.

        Args:
          n_vocab: Token ids are in [0, n_vocab). What different blocks have in common is nothing as
            long as at most so many stand behind the same one.
          seed: The same seed gives the same prompts.

        Returns:
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
    """Writes a workload file while requests end.

    Args:
      path: Written over if it exists. Nothing that was asked or answered gets into it: only
        lengths, times and which prompts began alike. Kept in memory is a digest of each block.
      block_size: Tokens of a block, in [1, 4096].

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
        """Note a request that ended.

        One that gave no token is left out; one that was submitted before the recorder was made
        counts as submitted then.

        Args:
          token_ids: Its prompt.
          result: How it ended.
          priority: As it was submitted.
          tenant: As it was submitted; written as a number.
          cache_salt: As it was submitted: requests of different salts have nothing in common.

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
        """Finish the file. Idempotent."""
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
    """Prompts with nothing in common, all at once."""
    for _ in range(n):
        yield _request(rng, 0.0, (), blocks, priority)


def _arrivals(rng: random.Random, n: int, blocks: Iterator[int]) -> Iterator[Request]:
    """Questions behind one system prompt of two blocks, one by one at random moments."""
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
