"""Many streaming clients for minutes: no error, no lost end, memory that stays.

    python bench/soak.py [--seconds 300] [--clients 64] [--settle 60] [--growth 1.05]

The server is a process of its own. Clients ask one after the other, for texts of random lengths; a
tenth of them goes away at a random moment. Fails if a request fails, if a stream ends without its
last event, if cells stay in use, or if the server's memory grows by more than --growth after
--settle seconds; what the prefix cache keeps in host memory, which has a bound of its own, is not
counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time

import aiohttp
from llamaherd.models import DEFAULT_MODEL
from served import Server


class Soak:
    """Clients, and what they saw."""

    def __init__(self, server: Server, seconds: float, n_clients: int) -> None:
        self._server = server
        self._until = time.monotonic() + seconds
        self._n_clients = n_clients
        self.n_answers = self.n_left = self.n_tokens = 0
        self.errors: list[str] = []
        self.memory: list[tuple[float, float, float]] = []  # seconds; MiB resident, of prefixes

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            clients = [self._client(session, i) for i in range(self._n_clients)]
            await asyncio.gather(self._watch(session), *clients)
            await self._require_idle(session)

    async def _client(self, session: aiohttp.ClientSession, i: int) -> None:
        rng = random.Random(i)
        while time.monotonic() < self._until and len(self.errors) < 10:
            leaves = rng.random() < 0.1
            patience_s = rng.uniform(0.05, 2) if leaves else None
            words = " ".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 60)))
            body = {
                "messages": [{"role": "user", "content": words}],
                "max_tokens": rng.randint(1, 64),
                "stream": True,
                "ignore_eos": True,
            }
            try:
                await asyncio.wait_for(self._ask(session, body), patience_s)
            except asyncio.TimeoutError:
                self.n_left += 1
            except aiohttp.ClientError as error:
                self.errors.append(f"{type(error).__name__}: {error}")

    async def _ask(self, session: aiohttp.ClientSession, body: dict) -> None:  # type: ignore[type-arg]
        url = f"{self._server.url}/v1/chat/completions"
        last, reason, n_tokens = b"", None, 0
        async with session.post(url, json=body) as answer:
            if answer.status != 200:
                self.errors.append(f"{answer.status}: {await answer.text()}")
                return
            async for line in answer.content:
                if not line.startswith(b"data: "):
                    continue
                last = line[6:].strip()
                if last != b"[DONE]":
                    choice = json.loads(last)["choices"][0]
                    n_tokens += bool(choice["delta"].get("content"))
                    reason = choice["finish_reason"] or reason
        if last != b"[DONE]" or reason != "length":
            self.errors.append(f"a stream ended with {last!r}, finish_reason {reason}")
        self.n_answers += 1
        self.n_tokens += n_tokens

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        begin = time.monotonic()
        while time.monotonic() < self._until:
            before = self._server.memory_mib()
            (line,) = await self._metrics(session, "prefix_cache_ram_bytes")
            resident = (before + self._server.memory_mib()) / 2
            cached = float(line.split()[-1]) / (1 << 20)
            self.memory.append((time.monotonic() - begin, resident, cached))
            await asyncio.sleep(1)

    async def _metrics(self, session: aiohttp.ClientSession, names: str) -> list[str]:
        async with session.get(f"{self._server.url}/metrics") as answer:
            answer.raise_for_status()
            lines = (await answer.text()).splitlines()
        return [line for line in lines if re.match(rf"llamaherd_({names})\{{", line)]

    async def _require_idle(self, session: aiohttp.ClientSession) -> None:
        names = "num_requests_(running|waiting)|kv_cells_reserved|requests_without_token"
        until = time.monotonic() + 30
        while True:
            found = await self._metrics(session, names)
            busy = [line for line in found if float(line.split()[-1]) != 0]
            if not busy:
                return
            if time.monotonic() > until:
                self.errors.append(f"left in use: {busy}")
                return
            await asyncio.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--settle", type=float, default=60)
    parser.add_argument("--growth", type=float, default=1.05, help="of memory, at most")
    parser.add_argument("--clients", type=int, default=64)
    args = parser.parse_args()
    server = Server(args.model, ["--max-seqs", "16", "--n-ctx", "8192"])
    try:
        soak = Soak(server, args.seconds, args.clients)
        asyncio.run(soak.run())
    finally:
        server.process.terminate()
        status = server.process.wait(60)
    settled = [resident - cached for at, resident, cached in soak.memory if at >= args.settle]
    growth = max(settled) / settled[0]
    print(f"{soak.n_answers} answers read to the end, {soak.n_left} left, {soak.n_tokens} pieces")
    print(f"memory {settled[0]:.0f} MiB after {args.settle:.0f} s, then at most x {growth:.3f}")
    for error in soak.errors[:10]:
        print(error)
    if growth > args.growth:
        for at, resident, cached in soak.memory:
            print(f"after {at:.0f} s {resident:.0f} MiB, {cached:.0f} of them prefixes")
    if soak.errors or growth > args.growth or status != 0 or soak.n_answers == 0:
        sys.exit(f"failed: {len(soak.errors)} errors, growth {growth:.3f}, exit status {status}")


if __name__ == "__main__":
    main()
