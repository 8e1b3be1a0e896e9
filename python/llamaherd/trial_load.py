"""Loads a model that may crash the process: ``python -m llamaherd.trial_load PATH BYTES``.

It prints what it is about to do, a line each, and at last the error if the file is refused.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

from llamaherd import BatchEngine, Embedder, EngineConfig, LlamaHerdError, SamplingParams, _core
from llamaherd.models.check import REFUSED

_PROMPT = "Hello"


def main(path: str, n_bytes: int) -> int:
    """Tries a model with so many more bytes of memory; gives the exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(n_bytes)
    try:
        _use(Path(path))
    except (LlamaHerdError, MemoryError) as error:
        _say(" ".join((str(error) or "there is not enough memory").splitlines()))
        return REFUSED
    return 0


def _limit_memory(n_bytes: int) -> None:
    if any(device.kind != "cpu" for device in _core.list_devices()):
        return  # a GPU's driver reserves far more addresses than it uses
    with suppress(OSError, ValueError):  # where /proc is missing
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + n_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _use(path: Path) -> None:
    """Loads, renders a conversation and answers it, or makes an embedding."""
    _say("loading it")
    config = EngineConfig(n_ctx=256, max_seqs=1, warmup=False, n_gpu_layers=0)
    try:
        with BatchEngine(path, config, progress=False) as engine:
            has_template = engine.model_info()["has_chat_template"]
            prompt = [{"role": "user", "content": _PROMPT}] if has_template else _PROMPT
            _say("answering a prompt")
            engine.submit(prompt, SamplingParams(max_tokens=4)).result()
    except _core.NotGenerativeError:
        embedder = Embedder(path, EngineConfig(n_gpu_layers=0), progress=False)
        _say("embedding a text")
        embedder.embed(_PROMPT, truncate=True)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
