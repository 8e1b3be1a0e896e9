"""Runs an in-process contestant: ``python -m llamaherd.benchmark.contestants.worker NAME``.

Reads a configuration and then scenarios from stdin, one JSON object per line, and writes one line
for each: name and version of the contestant, or why it is absent; then measurements and samples.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from llamaherd.benchmark.contestants.contestant import (
    ContestantConfig,
    InProcessEngine,
    Unavailable,
)
from llamaherd.benchmark.load.arrival import closed_loop, open_loop
from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.scenario import Scenario

_SAMPLE_S = 0.05


def _herd(**options: Any) -> Callable[[ContestantConfig], InProcessEngine]:
    def load(setup: ContestantConfig) -> InProcessEngine:
        from llamaherd.benchmark.contestants.llamaherd import LlamaherdContestant

        return LlamaherdContestant(setup, **options)

    return load


def _openvino(setup: ContestantConfig) -> InProcessEngine:
    from llamaherd.benchmark.contestants.openvino import OpenVino

    return OpenVino(setup)


def _llama_cpp_python(setup: ContestantConfig) -> InProcessEngine:
    from llamaherd.benchmark.contestants.llama_cpp_python import LlamaCppPython

    return LlamaCppPython(setup)


ENGINES: dict[str, Callable[[ContestantConfig], InProcessEngine]] = {
    "llamaherd": _herd(),
    "one-at-a-time": _herd(one_at_a_time=True),
    "low-latency": _herd(preset="low_latency"),
    "balanced": _herd(preset="balanced"),
    "high-throughput": _herd(preset="high_throughput"),
    "openvino": _openvino,
    "llama-cpp-python": _llama_cpp_python,
}


def main() -> None:
    """Run one contestant until stdin ends."""
    # Engines also write to stdout.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    setup = ContestantConfig(**json.loads(sys.stdin.readline()))
    try:
        engine = ENGINES[sys.argv[1]](setup)
    except Unavailable as absent:
        reply({"absent": str(absent)})
        return
    except Exception as error:  # third-party code may raise anything
        reply({"absent": f"cannot load {setup.model}: {error}"})
        return
    reply({"version": engine.version})
    loop = asyncio.new_event_loop()  # one loop for all scenarios: engines keep its locks
    for line in sys.stdin:
        reply(loop.run_until_complete(_run(engine, Scenario.from_json(json.loads(line)))))
    loop.close()
    engine.close()


async def _run(engine: InProcessEngine, scenario: Scenario) -> dict[str, Any]:
    samples: list[dict[str, float]] = []
    watching = asyncio.ensure_future(_watch(engine, samples))
    answers = await play(engine.ask, scenario)
    watching.cancel()
    return {"answers": [asdict(answer) for answer in answers], "samples": samples}


async def play(ask: Callable[..., Any], scenario: Scenario) -> list[RequestMeasurement]:
    """Send a scenario's requests in its order and times."""
    if scenario.arrivals_s:
        return await open_loop(ask, [chain[0] for chain in scenario.chains], scenario.arrivals_s)
    return await closed_loop(ask, scenario.chains, scenario.n_clients)


async def _watch(engine: InProcessEngine, samples: list[dict[str, float]]) -> None:
    while True:
        sample = engine.sample()
        if not sample:
            return
        samples.append({"at_s": time.perf_counter(), **sample})
        await asyncio.sleep(_SAMPLE_S)


if __name__ == "__main__":
    main()
