"""Recorded traces as scenarios: arrival times, lengths, common prefixes.

Two public formats are supported: Mooncake's JSONL (``timestamp`` in ms, ``input_length``,
``output_length``, ``hash_ids`` of the prompt's blocks) and Azure's CSV (``TIMESTAMP``,
``ContextTokens``, ``GeneratedTokens``; no common prefixes).
"""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llamaherd._core import InvalidRequestError
from llamaherd.benchmark.load.scenario import BenchmarkRequest, Scenario
from llamaherd.benchmark.load.scenario_kinds import Size
from llamaherd.benchmark.load.synthetic_text import synthetic_text

_BLOCK_TOKENS = 512  # of Mooncake
_MAX_PROMPT = 2000
_MAX_OUTPUT = 128


@dataclass(frozen=True)
class _Recorded:
    at_s: float
    n_prompt: int
    n_output: int
    blocks: tuple[int, ...] = ()


def load(path: Path, seed: int, size: Size) -> Scenario:
    """The first `size.n_chains` requests of a trace, scaled: the longest prompt to 2,000 tokens,
    the
    longest output to 128, the arrival rate to `size.rate` per second. Common prefixes are kept.

    Raises:
      InvalidRequestError: The file cannot be read or has neither format.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"cannot read {path}: {error}") from None
    try:
        read = _mooncake if text.lstrip().startswith("{") else _azure
        recorded = read(text, size.n_chains)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(f"{path} must be a Mooncake or Azure trace: {error!r}") from None
    if not recorded:
        raise InvalidRequestError(f"{path} must hold at least 1 request; got 0")
    return _scenario(recorded, seed, size)


def _mooncake(text: str, n: int) -> list[_Recorded]:
    lines = [json.loads(line) for line in text.splitlines()[:n]]
    return [
        _Recorded(
            line["timestamp"] / 1e3,
            line["input_length"],
            line["output_length"],
            tuple(line["hash_ids"]),
        )
        for line in lines
    ]


def _azure(text: str, n: int) -> list[_Recorded]:
    rows = list(csv.DictReader(text.splitlines()[: n + 1]))
    # Python parses six fractional digits of a second, Azure writes seven.
    moments = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    return [
        _Recorded(moment - moments[0], int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        for row, moment in zip(rows, moments, strict=True)
    ]


def _scenario(recorded: list[_Recorded], seed: int, size: Size) -> Scenario:
    prompt_scale = min(1.0, _MAX_PROMPT / max(r.n_prompt for r in recorded))
    output_scale = min(1.0, _MAX_OUTPUT / max(r.n_output for r in recorded))
    span_s = max(r.at_s for r in recorded) or 1.0
    time_scale = (len(recorded) - 1) / size.rate / span_s
    chains = []
    for i, one in enumerate(recorded):
        n_prompt = max(1, round(one.n_prompt * prompt_scale))
        n_block = max(1, round(_BLOCK_TOKENS * prompt_scale))
        prompt = " ".join(
            synthetic_text(random.Random(f"{seed} block {block}"), n_block) for block in one.blocks
        )
        # The last block is rarely full; without blocks the whole prompt is unique.
        kept = prompt.split()[:n_prompt]
        kept += synthetic_text(random.Random(f"{seed} request {i}"), n_prompt - len(kept)).split()
        chains.append(
            (BenchmarkRequest(" ".join(kept), max(1, round(one.n_output * output_scale))),)
        )
    return Scenario(
        chains=tuple(chains),
        n_clients=size.n_clients,
        arrivals_s=tuple(r.at_s * time_scale for r in recorded),
    )
