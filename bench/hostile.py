"""Attacks on a server, one after another, and their effect on well-behaved clients.

    python bench/hostile.py [--only WORD...] [--area AREA...] [--seconds 4] [--slack 1] [--list]

Each attack of `attacks/` is repeated without pause for --seconds by a process of the lowest
priority, as it would not use the server's cores from another machine. Meanwhile separate processes
request /health every 50 ms and run four streaming clients. Limits: the server stays up; /health
responds within 1 s; the median time between deltas of the streams is at most twice that without an
attack; no stream fails; memory, without the prefix cache, returns to within 20 % of its earlier
value, after each attack and after all; responses to the attack have allowed statuses. --slack
relaxes the time limits for busy machines. A server that has exited or is stuck is restarted for the
next attack. Exit status 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import resource
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from attacks import ATTACKS
from attacks.attack import BUSY, CLOSED, LEFT, Attack, Client
from beside import HEALTH_TIMEOUT_S, SPAWN, Seen, probing, streaming
from llamaherd.models import DEFAULT_MODEL
from served import Server, tool_template

N_STREAMS, N_TOKENS = 4, 300
MOST_HEALTH_S, MOST_GAP, MOST_MEMORY = 1.0, 2.0, 1.2
RECOVERY_S = 20.0
QUIET_S, MIN_TEXTS = 1.5, 12
N_FILES = 256  # file descriptors of the server
ADDRESS_SPACE = (
    16 << 30
)  # address space of the server in bytes, so that it fails before the machine does
N_STATUSES = 600


def attack_for_ever(url: str, name: str, counts: Any, stop: Any) -> None:
    """Main function of the attackers' process. Counts responses by status, from LEFT on."""
    os.nice(19)
    (attack,) = [attack for attack in ATTACKS if attack.name == name]

    async def client(session: aiohttp.ClientSession, index: int) -> None:
        sender = Client(url, session, index)
        while not stop.is_set():
            try:
                status = await attack.send(sender)
            except OSError:
                status = CLOSED
            counts[status - LEFT] += 1

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*[client(session, i) for i in range(attack.n_clients)])

    asyncio.run(run())


@contextlib.contextmanager
def attacking(url: str, attack: Attack, counts: Any) -> Iterator[Any]:
    """Yields the attackers' process."""
    stop = SPAWN.Event()
    process = SPAWN.Process(
        target=attack_for_ever, args=(url, attack.name, counts, stop), daemon=True
    )
    process.start()
    try:
        yield process
    finally:
        stop.set()
        # Attacks on batches need time to cancel their batches.
        process.join(30 if attack.area == "batches" else 1)
        process.kill()
        process.join()


@dataclass
class Found:
    """Effect of one attack."""

    attack: Attack
    statuses: dict[int, int] = field(default_factory=dict)
    health_s: float = 0.0  # longest response time
    gap: float = 1.0  # ratio of median times between deltas, with and without the attack
    longest_gap_s: float = 0.0
    memory: float = 1.0  # ratio of memory after to before
    peak_mib: float = 0.0
    problems: list[str] = field(default_factory=list)

    def judge(self, slack: float) -> None:
        allowed = self.attack.allowed | BUSY | {LEFT}
        wrong = {status: n for status, n in self.statuses.items() if status not in allowed}
        for broken, problem in (
            (wrong, f"unexpected statuses {wrong}"),
            (not self.statuses, "no response"),
            (self.health_s > MOST_HEALTH_S * slack, f"/health after {self.health_s:.1f} s"),
            (self.gap > MOST_GAP * slack, f"{self.gap:.1f} times the time between deltas"),
            (self.memory > MOST_MEMORY, f"{self.memory:.2f} times the memory"),
        ):
            if broken:
                self.problems.append(problem)


class Bench:
    """A server under attack."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args = args
        config = folder / "config.toml"
        config.write_text(f"chat_template = '''{tool_template()}'''\nmax_seqs = 8\nn_ctx = 8192\n")
        self._options = ["--config", str(config), "--data-dir", str(folder / "data")]
        if args.embedding_model:
            self._options.append(f"embed={args.embedding_model}")
        self.quiet_gap_s = 0.0
        self.first_mib = self.last_mib = float("nan")  # memory of the last server

    @contextlib.contextmanager
    def serving(self) -> Iterator[tuple[Server, Seen, Seen]]:
        """A new server with prober and streams."""
        with limits():
            server = Server(self._args.model, self._options, self._args.threads)
        try:
            url = server.url
            with probing(url) as health, streaming(url, N_STREAMS, N_TOKENS) as gaps:
                time.sleep(3)  # warm-up
                self.first_mib = self.last_mib = own_mib(server)
                yield server, health, gaps
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.process.kill()
            server.process.end()

    def streams_run(self, gaps: Seen) -> bool:
        """Measure the time between deltas without an attack; False: no deltas arrive."""
        begin = time.monotonic()
        while time.monotonic() < begin + RECOVERY_S:
            time.sleep(QUIET_S)
            now = time.monotonic()
            seen = numbers(gaps.between(now - QUIET_S, now))
            if len(seen) >= MIN_TEXTS:
                self.quiet_gap_s = statistics.median(seen)
                return True
        return False

    def run(self, attack: Attack, server: Server, health: Seen, gaps: Seen) -> Found:
        found = Found(attack)
        counts = SPAWN.Array("i", N_STATUSES, lock=False)
        before = own_mib(server)
        begin = time.monotonic()
        with attacking(server.url, attack, counts) as attackers:
            until = time.monotonic() + self._args.seconds
            # Slow attacks need time for at least one response.
            while time.monotonic() < until or (sum(counts) == 0 and time.monotonic() < until + 330):
                time.sleep(0.2)
                if server.process.poll() is not None or not attackers.is_alive():
                    break
                found.peak_mib = max(found.peak_mib, server.memory_mib())
        end = time.monotonic()
        found.statuses = {i + LEFT: n for i, n in enumerate(counts) if n}
        found.memory = self._recovered(server, before)
        seen = gaps.between(begin, end)
        found.health_s = max(health.between(begin, end), default=HEALTH_TIMEOUT_S)
        if numbers(seen):
            found.gap = statistics.median(numbers(seen)) / self.quiet_gap_s
            found.longest_gap_s = max(numbers(seen))
        else:
            found.gap = float("inf")
        found.problems += {f"lost: {value}" for value in seen if isinstance(value, str)}
        if server.process.poll() is not None:
            found.problems.append(
                f"the server ended with {server.process.returncode}: {server.process.last_line()}"
            )
        found.judge(self._args.slack)
        return found

    def _recovered(self, server: Server, before: float) -> float:
        """Ratio of memory after to before; waits until it is within the limit."""
        until = time.monotonic() + RECOVERY_S
        while server.process.poll() is None:
            self.last_mib = own_mib(server)
            if self.last_mib <= MOST_MEMORY * before or time.monotonic() > until:
                return self.last_mib / before
            time.sleep(0.2)
        return 1.0


def numbers(seen: list[Any]) -> list[float]:
    return [value for value in seen if isinstance(value, float)]


def own_mib(server: Server) -> float:
    """Resident memory without the prefix cache, in MiB; NaN: the server does not respond."""
    try:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    except OSError:
        return float("nan")
    cached = re.findall(r"llamaherd_prefix_cache_ram_bytes\{.*\} (\S+)", text)
    return server.memory_mib() - sum(map(float, cached)) / (1 << 20)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Limit file descriptors and address space of processes started within the `with`."""
    kinds = ((resource.RLIMIT_NOFILE, N_FILES), (resource.RLIMIT_AS, ADDRESS_SPACE))
    before = [(kind, resource.getrlimit(kind)) for kind, _ in kinds]
    for kind, soft in kinds:
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
    try:
        yield
    finally:
        for kind, both in before:
            resource.setrlimit(kind, both)


def replay(bench: Bench, attacks: list[Attack]) -> Iterator[Found]:
    """Run all attacks, on one server unless it has to be restarted."""
    waiting = list(attacks)
    while waiting:
        with bench.serving() as (server, health, gaps):
            found = None
            while waiting and server.process.poll() is None:
                if not bench.streams_run(gaps):
                    if found is None:
                        raise SystemExit("the streams make no progress without an attack")
                    found.problems.append(f"no delta within {RECOVERY_S:.0f} s after the attack")
                    break
                if found is not None:
                    yield found
                found = bench.run(waiting.pop(0), server, health, gaps)
            if found is not None:
                yield found


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--embedding-model", help="GGUF file, for embeddings and rerank")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the model")
    parser.add_argument("--seconds", type=float, default=4, help="seconds per attack")
    parser.add_argument("--slack", type=float, default=1, help="factor on the time limits")
    parser.add_argument("--only", nargs="*", default=[], help="attacks whose name contains a word")
    parser.add_argument("--area", nargs="*", default=[])
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    chosen = [
        attack
        for attack in ATTACKS
        if (not args.only or any(word in attack.name for word in args.only))
        and (not args.area or attack.area in args.area)
    ]
    if args.list:
        for attack in chosen:
            print(f"{attack.area}: {attack.name}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # stops the server
    print("| area | attack | responses | /health, s | time between deltas | longest | memory | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        for found in replay(bench, chosen):
            statuses = ", ".join(f"{n} x {name_of(s)}" for s, n in found.statuses.items())
            print(
                f"| {found.attack.area} | {found.attack.name} | {statuses} | {found.health_s:.2f} "
                f"| x {found.gap:.2f} | {found.longest_gap_s:.2f} s | x {found.memory:.2f} "
                f"| {'; '.join(found.problems) or 'ok'} |",
                flush=True,
            )
            if found.problems:
                failed.append(found.attack.name)
    if bench.last_mib > MOST_MEMORY * bench.first_mib:
        failed.append("memory after all attacks")
    print(f"\nmemory {bench.first_mib:.0f} MiB before all, {bench.last_mib:.0f} MiB after")
    print(f"{len(chosen)} attacks, {len(failed)} exceeded a limit")
    if failed:
        sys.exit("failed: " + "; ".join(failed))


def name_of(status: int) -> str:
    return {LEFT: "left", CLOSED: "closed"}.get(status, str(status))


if __name__ == "__main__":
    main()
