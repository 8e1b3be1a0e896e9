"""The workload file format: arrival times, lengths and common prefixes of requests, without text.

A file is JSONL. Its first line is ``{"llamaherd_workload": 1, "block_size": 32}``: the version of
the format, and the tokens per block. Each other line is one request, in any order:

- arrival_s: Arrival time in seconds, relative to any common origin, in [0, 1e9].
- n_prompt: Prompt tokens, >= 1.
- n_output: Output tokens, >= 1.
- blocks: One number per block of the prompt; the last block may be shorter. Equal numbers mean
  equal tokens after equal preceding blocks. Numbers count from 0 in order of first appearance.
- priority: Priority class in [0, 100], lower is more urgent. Default: 0.
- tenant: Number of the tenant, >= 0. Omitted if unknown.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from llamaherd._core import InvalidRequestError

KEY = "llamaherd_workload"
VERSION = 1
MAX_BLOCK_SIZE = 4096

_MAX_INT = 2**31 - 1
_MAX_PRIORITY = 100
_MAX_ARRIVAL_S = 1e9
_FIELDS = ("arrival_s", "n_prompt", "n_output", "blocks", "priority", "tenant")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request of a workload; the fields are described in the module docstring."""

    arrival_s: float
    n_prompt: int
    n_output: int
    blocks: tuple[int, ...]
    priority: int = 0
    tenant: int | None = None


def parse(text: str, *, name: str) -> tuple[tuple[Request, ...], int]:
    """Parse a workload. Returns its requests in order of arrival from 0 seconds, and block_size.

    Args:
      text: Content of the file.
      name: Name of the file in error messages.

    Raises:
      InvalidRequestError: The file is invalid; the message states the line and the rule.
    """
    return _Parser(name).parse(text)


class _Parser:
    """Parser of one file. Its blocks form a tree that all lines must agree with."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._line = 0
        self._block_size = 0
        self._places: list[tuple[int, int]] = []  # by block: preceding block, length

    def parse(self, text: str) -> tuple[tuple[Request, ...], int]:
        requests = []
        for self._line, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            values = self._object(line)
            if self._block_size:
                requests.append(self._request(values))
            else:
                self._header(values)
        self._require(bool(requests), "a workload must have at least 1 request")
        requests.sort(key=lambda request: request.arrival_s)
        begin_s = requests[0].arrival_s
        shifted = (replace(r, arrival_s=r.arrival_s - begin_s) for r in requests)
        return tuple(shifted), self._block_size

    def _object(self, line: str) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._error(f"not JSON: {error}") from None
        self._require(isinstance(values, dict), "must be an object")
        return dict(values)

    def _header(self, values: dict[str, Any]) -> None:
        self._integer(values, KEY, 1, VERSION)
        self._block_size = self._integer(values, "block_size", 1, MAX_BLOCK_SIZE)
        self._require_known(values, (KEY, "block_size"))

    def _request(self, values: dict[str, Any]) -> Request:
        self._require_known(values, _FIELDS)
        n_prompt = self._integer(values, "n_prompt", 1, _MAX_INT)
        tenant = self._integer(values, "tenant", 0, _MAX_INT) if "tenant" in values else None
        return Request(
            arrival_s=self._arrival(values),
            n_prompt=n_prompt,
            n_output=self._integer(values, "n_output", 1, _MAX_INT),
            blocks=self._blocks(values, n_prompt),
            priority=self._integer({"priority": 0, **values}, "priority", 0, _MAX_PRIORITY),
            tenant=tenant,
        )

    def _arrival(self, values: dict[str, Any]) -> float:
        value: Any = values.get("arrival_s")
        # False for NaN.
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and 0 <= value <= _MAX_ARRIVAL_S:
            return float(value)
        raise self._error(f"arrival_s must be a number in [0, 1e9]; got {value!r}")

    def _blocks(self, values: dict[str, Any], n_prompt: int) -> tuple[int, ...]:
        blocks = values.get("blocks")
        n_blocks = math.ceil(n_prompt / self._block_size)
        self._require(
            isinstance(blocks, list) and len(blocks) == n_blocks,
            f"blocks must be a list of {n_blocks} numbers for {n_prompt} prompt tokens",
        )
        parent = -1
        for i, block in enumerate(blocks or []):
            self._integer({"blocks": block}, "blocks", 0, len(self._places))
            place = (parent, min(self._block_size, n_prompt - i * self._block_size))
            if block == len(self._places):
                self._places.append(place)
            self._require(
                self._places[block] == place,
                f"block {block} must have the same blocks before it and the same length as before",
            )
            parent = block
        return tuple(blocks or [])

    def _integer(self, values: dict[str, Any], name: str, low: int, high: int) -> int:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise self._error(f"{name} must be an integer in [{low}, {high}]; got {value!r}")

    def _require_known(self, values: dict[str, Any], known: tuple[str, ...]) -> None:
        for name in values:
            self._require(
                name in known, f"unknown field {name!r}; valid fields are {', '.join(known)}"
            )

    def _require(self, ok: bool, rule: str) -> None:
        if not ok:
            raise self._error(rule)

    def _error(self, rule: str) -> InvalidRequestError:
        return InvalidRequestError(f"{self._name}, line {self._line}: {rule}")
