"""Loads and runs the contestants of a benchmark."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llamaherd.benchmark.contestants.contestant import ContestantConfig, Unavailable
from llamaherd.benchmark.contestants.process_log import LoggedProcess
from llamaherd.benchmark.contestants.servers import SERVERS, Programs, Server
from llamaherd.benchmark.contestants.worker import ENGINES, play
from llamaherd.benchmark.load.generator import HttpClient
from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.scenario import BenchmarkRequest, Scenario

CONTESTANTS = (*ENGINES, *SERVERS)


@dataclass
class RunResult:
    """Measurements of a contestant's requests, and samples of its gauges if it has any."""

    answers: list[RequestMeasurement]
    samples: list[dict[str, float]] = field(default_factory=list)


class Contestant(Protocol):
    """A loaded contestant.

    Attributes:
      version: Name and version of the engine.
    """

    version: str

    def play(self, scenario: Scenario) -> RunResult:
        """Run all requests of a scenario.

        Raises:
          Unavailable: Its process has ended.
        """

    def close(self) -> None:
        """Stop its process."""


class InProcessContestant:
    """An engine in a child process, controlled through stdin and stdout."""

    def __init__(self, name: str, setup: ContestantConfig) -> None:
        command = [sys.executable, "-m", "llamaherd.benchmark.contestants.worker", name]
        self.process = LoggedProcess(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            loaded = self._exchange(setup.to_json())
        except BaseException:
            self.close()
            raise
        if "absent" in loaded:
            self.close()
            raise Unavailable(loaded["absent"])
        self.version: str = loaded["version"]

    def play(self, scenario: Scenario) -> RunResult:
        reply = self._exchange(scenario.to_json())
        return RunResult(
            [RequestMeasurement(**answer) for answer in reply["answers"]], reply["samples"]
        )

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.end()

    def _exchange(self, values: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(values), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise Unavailable(f"process exited with status {code}: {self.process.last_line()}")
        return dict(json.loads(line))


class HttpContestant:
    """A server, called over HTTP from this process with one connection per request."""

    def __init__(self, name: str, setup: ContestantConfig, programs: Programs) -> None:
        self.server: Server = SERVERS[name](setup, programs)
        self.version = self.server.version

    def play(self, scenario: Scenario) -> RunResult:
        try:
            return RunResult(asyncio.run(self._play(scenario)))
        finally:
            self.server.check()

    async def _play(self, scenario: Scenario) -> list[RequestMeasurement]:
        async with HttpClient(f"{self.server.url}/v1", "completions") as client:

            async def ask(one: BenchmarkRequest) -> RequestMeasurement:
                return await client.ask(
                    {
                        "prompt": one.prompt,
                        "max_tokens": one.max_tokens,
                        "temperature": 0,
                        "ignore_eos": True,
                    }
                )

            return await play(ask, scenario)

    def close(self) -> None:
        self.server.close()


class ContestantPool:
    """Contestants by name; unavailable ones are in `absent` with the reason."""

    def __init__(self, names: Sequence[str], setup: ContestantConfig, programs: Programs) -> None:
        self.contestants: dict[str, Contestant] = {}
        self.absent: dict[str, str] = {}
        try:
            for name in names:
                self._load(name, setup, programs)
        except BaseException:
            self.close()
            raise

    def _load(self, name: str, setup: ContestantConfig, programs: Programs) -> None:
        try:
            if name in ENGINES:
                self.contestants[name] = InProcessContestant(name, setup)
            else:
                self.contestants[name] = HttpContestant(name, setup, programs)
        except Unavailable as absent:
            self.absent[name] = str(absent)

    def play(self, name: str, scenario: Scenario) -> RunResult | None:
        """Like `Contestant.play()`; None: its process has ended; it is in `absent` from now on."""
        try:
            return self.contestants[name].play(scenario)
        except Unavailable as absent:
            self.absent[name] = str(absent)
            self.contestants.pop(name).close()
            return None

    def close(self) -> None:
        for contestant in self.contestants.values():
            contestant.close()

    def __enter__(self) -> ContestantPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
