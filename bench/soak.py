"""Soak test: many clients for minutes without errors, lost requests, stalls or memory growth.

    python bench/soak.py [--seconds 300] [--clients 64] [--settle 60] [--growth 1.05] [--hostile 0]
    python bench/soak.py --seconds 1200 --clients 32 --hostile 0.1      # the requests of a day

The server is a separate process. Each client sends one request after another: chats, completions,
structured outputs, tool calls, token counts, embeddings (with --embedding-model) and batch jobs; a
tenth of the streams is disconnected at a random time. --hostile is the share of clients that send
the quick attacks of `attacks/` instead. Finish reason and text of every complete response are
checked; greedy outputs must equal those without load. /health is requested every 50 ms.

Fails if a request fails (429 and 503 are retried), if an output differs, if cells stay in use, if
/health or the next delta of a stream takes longer than --stall seconds, or if the server's memory
grows by more than the factor --growth after --settle seconds, not counting the prefix cache in host
memory, which has its own limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from asking import Asker, Problem
from attacks import ATTACKS
from attacks.attack import BUSY, CLOSED, LEFT, Client
from beside import HEALTH_TIMEOUT_S, SPAWN, probing
from llamaherd.models import DEFAULT_MODEL
from served import Server, tool_template


class Soak:
    """Clients and their observations."""

    def __init__(self, server: Server, args: argparse.Namespace) -> None:
        self._server = server
        self._args = args
        self._until = 0.0
        self.asked: Counter[str] = Counter()
        self.n_left = self.n_refused = 0
        self.longest_gap_s = 0.0
        self.errors: list[str] = []
        self.memory: list[tuple[float, float, float]] = []  # s; MiB resident, of prefixes

    async def run(self, n_clients: int) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            asker = Asker(self._server.url, session, embeds=bool(self._args.embedding_model))
            await asker.learn()
            self._until = time.monotonic() + self._args.seconds
            clients = [self._client(asker, i) for i in range(n_clients)]
            await asyncio.gather(self._watch(session), *clients)
            self.longest_gap_s, self.n_refused = asker.longest_gap_s, asker.n_refused
            if self.asked["tool"] > 10 and asker.n_calls == 0:
                self.errors.append(f"no tool was called in {self.asked['tool']} responses")
            await self._require_idle(session)

    async def _client(self, asker: Asker, i: int) -> None:
        rng = random.Random(i)
        while time.monotonic() < self._until and len(self.errors) < 10:
            kind = rng.choice(asker.kinds)
            patience_s = rng.uniform(0.05, 2) if rng.random() < 0.1 and kind != "batch" else None
            try:
                await asyncio.wait_for(asker.ask(kind, rng), patience_s)
                self.asked[kind] += 1
            except asyncio.TimeoutError:
                self.n_left += 1
            except (Problem, aiohttp.ClientError, OSError, ValueError) as error:
                self.errors.append(f"{kind}: {type(error).__name__}: {error}")

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        begin = time.monotonic()
        while time.monotonic() < self._until:
            before = self._server.memory_mib()
            lines = await self._metrics(session, "prefix_cache_ram_bytes")
            resident = (before + self._server.memory_mib()) / 2
            cached = sum(float(line.split()[-1]) for line in lines) / (1 << 20)
            self.memory.append((time.monotonic() - begin, resident, cached))
            await asyncio.sleep(1)

    async def _metrics(self, session: aiohttp.ClientSession, names: str) -> list[str]:
        async with session.get(f"{self._server.url}/metrics") as answer:
            answer.raise_for_status()
            lines = (await answer.text()).splitlines()
        return [line for line in lines if re.match(rf"llamaherd_({names})\{{", line)]

    async def _require_idle(self, session: aiohttp.ClientSession) -> None:
        names = "num_requests_(running|waiting)|kv_cells_reserved|requests_without_token"
        until = time.monotonic() + 60
        while True:
            found = await self._metrics(session, names)
            busy = [line for line in found if float(line.split()[-1]) != 0]
            if not busy:
                return
            if time.monotonic() > until:
                self.errors.append(f"left in use: {busy}")
                return
            await asyncio.sleep(0.1)


def attack_at_random(url: str, n_clients: int, counts: Any, stop: Any) -> None:
    """Main function of the attackers' process."""
    os.nice(19)
    # Without keys all clients are one tenant; attacks on files would use up its quota.
    attacks = [attack for attack in ATTACKS if attack.quick and attack.area != "files"]

    async def client(session: aiohttp.ClientSession, index: int) -> None:
        rng = random.Random(index)
        sender = Client(url, session, index)
        while not stop.is_set():
            attack = rng.choice(attacks)
            try:
                status = await asyncio.wait_for(attack.send(sender), 20)
            except asyncio.TimeoutError:
                status = LEFT
            except OSError:
                status = CLOSED
            right = status in attack.allowed | BUSY | {LEFT}
            counts[0 if right else 1] += 1
            if not right:
                print(f"{attack.name}: unexpected status {status}", flush=True)

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*[client(session, i) for i in range(n_clients)])

    asyncio.run(run())


@contextlib.contextmanager
def attacked(url: str, n_clients: int, counts: Any) -> Iterator[None]:
    if n_clients == 0:
        yield
        return
    stop = SPAWN.Event()
    process = SPAWN.Process(
        target=attack_at_random, args=(url, n_clients, counts, stop), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(25)
        process.kill()
        process.join()


def options_of(args: argparse.Namespace, folder: Path) -> list[str]:
    config = folder / "config.toml"
    config.write_text(f"chat_template = '''{tool_template()}'''\nmax_seqs = 16\nn_ctx = 8192\n")
    options = ["--config", str(config), "--data-dir", str(folder / "data")]
    return options + ([f"embed={args.embedding_model}"] if args.embedding_model else [])


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--embedding-model", help="GGUF file")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the model")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--settle", type=float, default=60)
    parser.add_argument(
        "--growth",
        type=float,
        default=1.05,
        help="maximum ratio of memory in the last fifth of the time to the first fifth",
    )
    parser.add_argument("--stall", type=float, default=10, help="maximum seconds between deltas")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--hostile", type=float, default=0, help="share of clients that attack")
    args = parser.parse_args()
    n_hostile = round(args.hostile * args.clients)
    counts = SPAWN.Array("i", 2, lock=False)  # attacks with expected and with unexpected status
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.model, options_of(args, Path(folder)), args.threads)
        soak = Soak(server, args)
        begin = time.monotonic()
        try:
            with probing(server.url) as health, attacked(server.url, n_hostile, counts):
                asyncio.run(soak.run(args.clients - n_hostile))
                longest_s = max(health.between(begin, time.monotonic()), default=HEALTH_TIMEOUT_S)
        finally:
            server.process.terminate()
            status = server.process.wait(60)
    settled = [resident - cached for at, resident, cached in soak.memory if at >= args.settle]
    first, last = settled[: len(settled) // 5], settled[-(len(settled) // 5) :]
    growth = statistics.median(last) / statistics.median(first)
    print(f"completed: {dict(soak.asked)}; {soak.n_left} disconnected, {soak.n_refused} retried")
    print(f"attacks: {counts[0]}, and {counts[1]} with an unexpected status")
    print(f"longest time: /health {longest_s:.2f} s, between deltas {soak.longest_gap_s:.2f} s")
    print(
        f"memory without prefixes, after {args.settle:.0f} s: {statistics.median(first):.0f} MiB, "
        f"at the end x {growth:.3f} (medians of fifths), at most {max(settled):.0f} MiB"
    )
    for error in soak.errors[:10]:
        print(error)
    if growth > args.growth:
        for at, resident, cached in soak.memory:
            print(f"after {at:.0f} s {resident:.0f} MiB, {cached:.0f} of them prefixes")
    failures = [
        *[f"{len(soak.errors)} errors"] * bool(soak.errors),
        *[f"memory grew x {growth:.3f}"] * (growth > args.growth),
        *[f"exit status {status}"] * (status != 0),
        *["no response was completed"] * (not soak.asked),
        *["a stall"] * (max(longest_s, soak.longest_gap_s) > args.stall),
        *[f"{counts[1]} attacks with an unexpected status"] * bool(counts[1]),
    ]
    if failures:
        sys.exit("failed: " + ", ".join(failures))


if __name__ == "__main__":
    main()
