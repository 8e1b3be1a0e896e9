"""Loads mutants of tiny GGUF files in children, and counts how it went.

    python tests/fuzz/gguf_mutants.py --n 100000 --seed 1 --keep FOLDER

Mutant i of a seed is always the same; --only I writes it to the folder and loads it. Each is loaded
in a forked child with limits of time and memory, and answers two tokens if it can. Crashes,
timeouts and errors that are no ModelLoadError are kept, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from gguf_bytes import Gguf
from gguf_mutation import mutant
from tiny_ggufs import bases

LIMIT_S = 10
_MEMORY = 6 << 30
_STATUS = {0: "loaded", 10: "ModelLoadError", 11: "other error"}


def load(path: Path) -> None:
    """What a user does with a model: load it, render, answer; or embed.

    Raises:
      ModelLoadError: As it should be for a file that cannot be used.
    """
    from llamaherd import (
        BatchEngine,
        Embedder,
        EngineConfig,
        InvalidRequestError,
        LlamaHerdError,
        SamplingParams,
    )
    from llamaherd._core import NotGenerativeError

    config = EngineConfig(n_ctx=64, max_seqs=1, n_threads=1, warmup=False)
    try:
        with BatchEngine(path, config, progress=False) as engine:
            engine.model_info()
            for prompt in ("hello w", [{"role": "user", "content": "hello"}], [0, 0, 0]):
                with suppress(LlamaHerdError, RuntimeError):
                    engine.submit(prompt, SamplingParams(max_tokens=2)).result()
    except NotGenerativeError:
        config = EngineConfig(n_threads=1)
        try:
            embedder = Embedder(path, config, progress=False)
        except InvalidRequestError:  # the file does not say how tokens become one vector
            embedder = Embedder(path, config, pooling="mean", progress=False)
        with suppress(LlamaHerdError):
            embedder.embed(["hello w", "a"], truncate=True)


def in_child(path: Path) -> str:
    """Loads a file in a child; gives loaded, ModelLoadError, timeout, a signal or what else."""
    pid = os.fork()
    if pid == 0:
        _child(path)
    with suppress(ChildProcessError):
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            late = number in (signal.SIGALRM, signal.SIGXCPU)
            return "timeout" if late else signal.Signals(number).name
        return _STATUS.get(os.WEXITSTATUS(status), f"exit {os.WEXITSTATUS(status)}")
    return "lost"


def _child(path: Path) -> None:
    """Never returns."""
    status = 11
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LIMIT_S)
        from llamaherd import ModelLoadError

        try:
            load(path)
            status = 0
        except ModelLoadError:
            status = 10
    except BaseException as error:
        print(f"{path.name}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def pick(models: dict[str, Gguf], seed: int, i: int) -> tuple[str, bytes]:
    """Mutant i of a seed, and its base's name."""
    rng = random.Random(f"{seed}/{i}")
    name = rng.choice(list(models))
    return name, mutant(models[name], rng)


def run(
    n: int,
    seed: int,
    keep: Path,
    *,
    first: int = 0,
    seconds: float = float("inf"),
    progress: bool = False,
) -> Counter[str]:
    """Loads mutants and counts outcomes; keeps the files of bad ones."""
    import llamaherd

    llamaherd.list_devices()
    counts: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_ram()) as folder:
        models = bases(Path(folder))
        path = Path(folder, "mutant.gguf")
        for i in range(first, first + n):
            name, raw = pick(models, seed, i)
            path.write_bytes(raw)
            outcome = in_child(path)
            counts[outcome] += 1
            if outcome not in ("loaded", "ModelLoadError"):
                keep.mkdir(parents=True, exist_ok=True)
                Path(keep, f"{seed}-{i}-{name}-{outcome.replace(' ', '_')}.gguf").write_bytes(raw)
                print(f"{i} ({name}): {outcome}", file=sys.stderr)
            if time.monotonic() - began > seconds:
                break
            if progress and (i + 1 - first) % 1000 == 0:
                rate = (i + 1 - first) / (time.monotonic() - began)
                print(f"{i + 1}: {rate:.0f}/s {dict(counts)}", flush=True)
    return counts


def _ram() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, default=100_000, help="mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first mutant's number")
    parser.add_argument("--keep", type=Path, default=Path("mutants"), help="folder for bad ones")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after this time")
    parser.add_argument("--only", type=int, help="write this mutant, load it here, and end")
    options = parser.parse_args()
    if options.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            name, raw = pick(bases(Path(folder)), options.seed, options.only)
        options.keep.mkdir(parents=True, exist_ok=True)
        path = options.keep / f"{options.seed}-{options.only}-{name}.gguf"
        path.write_bytes(raw)
        load(path)
        return 0
    counts = run(
        options.n,
        options.seed,
        options.keep,
        first=options.first,
        seconds=options.seconds,
        progress=True,
    )
    print(json.dumps(counts))
    return int(set(counts) - {"loaded", "ModelLoadError"} != set())


if __name__ == "__main__":
    sys.exit(main())
