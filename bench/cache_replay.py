"""Cache hits of a recorded trace: the real prefix cache against simple policies and the optimum.

    python bench/cache_replay.py --trace conversation_trace.jsonl [--azure azure_conv_2023.csv]
        [--check] [--replay-cache BINARY] [--out FOLDER]

Requests consist of whole 512-token blocks, equal ids are equal blocks; one request at a time, in
recorded order. A cache of p % holds p % of the distinct blocks. The policies evict leaves of the
tree of blocks that the request does not use:

- leaf LRU: the least recently used leaf;
- whole-sequence LRU: the same, with all preceding blocks that no other sequence shares;
- optimum (Belady): the leaf whose next use is farthest; a new block is kept only if its next use is
  nearer. Uses future requests.

The real cache is csrc/cache/radix_cache.h, driven by bench/cpp/replay_cache.cpp. Deterministic.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = 512  # as in replay_cache.cpp
SIZES = (1, 2, 5, 10, 20, 50, 100)  # % of the distinct blocks
UNLIMITED_TAGS = 100_000
TAGS = 240
RAM_FACTOR = 4
NEVER = 1 << 60

# Required hits of the real cache with unlimited tags on the Mooncake trace, relative to leaf LRU.
LEAST = {1: 1.9, 2: 1.7, 5: 1.1}

Requests = list[list[int]]


@dataclass
class Trace:
    """Requests as paths of blocks, numbered from 0; `parent` is the preceding block, -1 at the
    start."""

    requests: Requests

    def __post_init__(self) -> None:
        number: dict[int, int] = {}
        for request in self.requests:
            request[:] = [number.setdefault(block, len(number)) for block in request]
        self.n_distinct = len(number)
        self.n_blocks = sum(map(len, self.requests))
        self.parent = [-1] * self.n_distinct
        for request in self.requests:
            for before, block in itertools.pairwise([-1, *request]):
                self.parent[block] = before
        upcoming = [NEVER] * self.n_distinct
        # Per block of each request: the next request that uses it.
        self.next_uses: Requests = []
        for i in range(len(self.requests) - 1, -1, -1):
            self.next_uses.append([upcoming[block] for block in self.requests[i]])
            for block in self.requests[i]:
                upcoming[block] = i
        self.next_uses.reverse()

    def capacity(self, percent: int) -> int:
        return max(1, self.n_distinct * percent // 100)


class BlockCache:
    """A tree of whole blocks; leaves are evicted in order of a key."""

    def __init__(self, trace: Trace, capacity: int) -> None:
        self._trace = trace
        self._n_free = capacity
        self._cached = [False] * trace.n_distinct
        self._n_children = [0] * trace.n_distinct
        self._key = [0] * trace.n_distinct
        self._used_by = [-1] * trace.n_distinct
        self._leaves: list[tuple[int, int]] = []  # a heap; entries may be stale

    def _victim(self, now: int) -> int | None:
        """The leaf with the lowest key; stays in the heap."""
        while self._leaves:
            key, block = self._leaves[0]
            if (
                self._cached[block]
                and self._n_children[block] == 0
                and self._key[block] == key
                and self._used_by[block] != now
            ):
                return block
            heapq.heappop(self._leaves)
        return None

    def _evict(self, block: int, now: int) -> int | None:
        """Evict a block; returns the preceding block if that has become a leaf."""
        self._cached[block] = False
        self._n_free += 1
        parent = self._trace.parent[block]
        if parent < 0:
            return None
        self._n_children[parent] -= 1
        if self._n_children[parent] > 0 or self._used_by[parent] == now:
            return None
        heapq.heappush(self._leaves, (self._key[parent], parent))
        return parent

    def run(self, future: bool, whole: bool) -> int:
        """Number of hits; evicts by last use, or by next use if `future`."""
        cached, key, used_by = self._cached, self._key, self._used_by
        n_found = 0
        for now, request in enumerate(self._trace.requests):
            keys = [-use for use in self._trace.next_uses[now]] if future else None
            n = 0
            for block in request:
                if not cached[block]:
                    break
                n += 1
            n_found += n
            for i, block in enumerate(request[:n]):
                used_by[block] = now
                key[block] = keys[i] if keys else now
            for i in range(n, len(request)):
                block = request[i]
                new_key = keys[i] if keys else now
                while self._n_free == 0:
                    victim = self._victim(now)
                    if victim is None or (future and key[victim] >= new_key):
                        break
                    above = self._evict(victim, now)
                    while whole and above is not None:
                        above = self._evict(above, now)
                if self._n_free == 0:
                    break
                cached[block] = True
                self._n_free -= 1
                used_by[block] = now
                key[block] = new_key
                if i > 0:
                    self._n_children[request[i - 1]] += 1
                n += 1
            if n > 0 and self._n_children[request[n - 1]] == 0:
                heapq.heappush(self._leaves, (key[request[n - 1]], request[n - 1]))
        return n_found


def read_mooncake(path: Path) -> Requests:
    with path.open() as lines:
        return [json.loads(line)["hash_ids"] for line in lines]


def azure_mix(path: Path, seed: int = 1, n_conversations: int = 6000) -> Requests:
    """A synthetic service with recorded lengths, in blocks of 64 tokens.

    One conversation starts per second on average. One in ten is a single long document. Four in
    five
    start with one of 30 system prompts, the k-th with probability proportional to 1/k. After each
    turn
    one in three ends; think times have a median of one minute.
    """
    n_systems, tokens_per_block, longest_turn = 30, 64, 600
    with path.open() as lines:
        lengths = [
            (int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for row in csv.DictReader(lines)
        ]
    rng = random.Random(seed)
    ids = itertools.count()

    def new(n: int) -> list[int]:
        return list(itertools.islice(ids, n))

    systems = [new(rng.randint(1, 8)) for _ in range(n_systems)]
    popularity = [1 / (rank + 1) for rank in range(n_systems)]

    def beginning() -> list[int]:
        return rng.choices(systems, popularity)[0] if rng.random() < 0.8 else []

    arrivals: list[tuple[float, list[int]]] = []
    start = 0.0
    for _ in range(n_conversations):
        start += rng.expovariate(1)
        if rng.random() < 0.1:
            arrivals.append((start, [*beginning(), *new(rng.randint(40, 160))]))
            continue
        tokens, now = beginning(), start
        for turn in itertools.count():
            n_prompt, n_generated = rng.choice(lengths)
            n_new = n_prompt if turn == 0 else min(n_prompt, longest_turn)
            tokens = [*tokens, *new(max(1, n_new // tokens_per_block))]
            arrivals.append((now, tokens))
            tokens = [*tokens, *new(max(1, n_generated // tokens_per_block))]
            if rng.random() < 1 / 3:
                break
            now += rng.lognormvariate(math.log(60), 1)
    arrivals.sort(key=lambda arrival: arrival[0])
    return [list(request) for _, request in arrivals]


class Ours:
    """The real prefix cache. Each block counts as 512 tokens."""

    def __init__(self, binary: Path, trace: Trace) -> None:
        self._binary = binary
        self._trace = trace
        self._input = "".join(
            f"{BLOCK * len(request)} {' '.join(map(str, request))}\n" for request in trace.requests
        )

    def run(self, percent: int, n_holders: int, ram_factor: int = 0) -> tuple[float, float]:
        """Hits in percent, in KV cells and in host memory."""
        n_cells = BLOCK * self._trace.capacity(percent)
        sizes = map(str, (n_cells, n_holders, ram_factor * n_cells))
        result = subprocess.run(
            [str(self._binary), *sizes],
            input=self._input,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        n_tokens, n_held, n_restored = map(int, result.stdout.split())
        return 100 * n_held / n_tokens, 100 * n_restored / n_tokens


def rule(trace: Trace, future: bool = False, whole: bool = False) -> Callable[[int], float]:
    def found(percent: int) -> float:
        n_found = BlockCache(trace, trace.capacity(percent)).run(future, whole)
        return 100 * n_found / trace.n_blocks

    return found


@dataclass
class Column:
    name: str
    cells: list[str]
    curve: list[float]


def measure(trace: Trace, binary: Path, full: bool) -> list[Column]:
    ours = Ours(binary, trace)
    columns: list[Column] = []

    def add(name: str, found: Callable[[int], float]) -> None:
        print(f"  {name}", file=sys.stderr)
        curve = [found(percent) for percent in SIZES]
        columns.append(Column(name, [f"{y:.2f}" for y in curve], curve))

    add("leaf LRU", rule(trace))
    if full:
        add("whole-sequence LRU", rule(trace, whole=True))
    add("optimum", rule(trace, future=True))
    add("ours", lambda percent: ours.run(percent, UNLIMITED_TAGS)[0])
    add(f"ours, {TAGS} tags", lambda percent: ours.run(percent, TAGS)[0])
    if full:
        name = f"ours, {TAGS} tags, RAM {RAM_FACTOR}x: held + restored"
        print(f"  {name}", file=sys.stderr)
        both = [ours.run(percent, TAGS, RAM_FACTOR) for percent in SIZES]
        cells = [f"{held:.2f} + {restored:.2f}" for held, restored in both]
        columns.append(Column(name, cells, [held + restored for held, restored in both]))
    return columns


def table(columns: list[Column]) -> str:
    rows = [["cells", *(column.name for column in columns)], ["---"] * (len(columns) + 1)]
    for i, percent in enumerate(SIZES):
        rows.append([f"{percent} %", *(column.cells[i] for column in columns)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def plot(measured: dict[str, list[Column]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "llamaherd", "font.size": 9}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(measured), figsize=(4.6 * len(measured), 3.4), squeeze=False, layout="constrained"
    )
    for axes, (title, columns) in zip(panels[0], measured.items(), strict=True):
        for column in columns:
            ours = column.name.startswith("ours")
            label = column.name.replace(": held + restored", "")
            axes.plot(SIZES, column.curve, "o-" if ours else "--", ms=3, lw=1.2, label=label)
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [str(percent) for percent in SIZES])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set(title=title, xlabel="cells, % of the distinct blocks", ylabel="blocks found, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def check(trace: Trace, binary: Path, least: dict[int, float]) -> list[str]:
    """One line per size at which the real cache with unlimited tags is too far below leaf LRU."""
    ours, lru = Ours(binary, trace), rule(trace)
    failures = []
    for percent in SIZES:
        found, bar = ours.run(percent, UNLIMITED_TAGS)[0], lru(percent)
        factor = least.get(percent, 1)
        line = f"{percent} %: ours {found:.2f}, leaf LRU {bar:.2f}, x {factor} = {factor * bar:.2f}"
        print(line)
        if found < factor * bar:
            failures.append(line)
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, help="Mooncake's conversation trace (JSON lines)")
    parser.add_argument("--azure", type=Path, help="Azure's 2023 conversation trace (CSV)")
    parser.add_argument("--check", action="store_true", help="only check the gate; write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument(
        "--replay-cache",
        type=Path,
        default=ROOT / "build" / "bench" / "bench" / "cpp" / "replay_cache",
    )
    args = parser.parse_args()
    if not args.trace and not args.azure:
        parser.error("at least one of --trace and --azure is required")
    if not args.replay_cache.is_file():
        parser.error(
            f"{args.replay_cache} does not exist; build it as described in bench/README.md"
        )

    traces = []
    if args.trace:
        traces.append(("Mooncake conversations", Trace(read_mooncake(args.trace)), True))
    if args.azure:
        traces.append(("Synthetic mix, Azure lengths", Trace(azure_mix(args.azure)), False))

    if args.check:
        failures = []
        for title, trace, mooncake in traces:
            print(title)
            failures += check(trace, args.replay_cache, LEAST if mooncake else {})
        for failure in failures:
            print(f"FAILED at {failure}", file=sys.stderr)
        sys.exit(1 if failures else 0)

    measured, text = (
        {},
        "# Cache hits, percent of all blocks\n\nGenerated by `bench/cache_replay.py`.\n",
    )
    for title, trace, mooncake in traces:
        print(title, file=sys.stderr)
        measured[title] = measure(trace, args.replay_cache, full=mooncake)
        text += (
            f"\n## {title}\n\n{len(trace.requests)} requests, {trace.n_blocks} blocks, "
            f"{trace.n_distinct} of them distinct.\n\n{table(measured[title])}"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "cache_replay.md").write_text(text)
    plot(measured, args.out / "cache_replay.svg")
    print(text)


if __name__ == "__main__":
    main()
