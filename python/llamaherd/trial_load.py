"""Loads an untrusted model: ``python -m llamaherd.trial_load PATH BYTES``.

Prints a line before each action, and the error message if the file is rejected.
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
    """Try a model with an address space limit of n_bytes above current use. Returns the status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(n_bytes)
    try:
        _use(Path(path))
    except (LlamaHerdError, MemoryError) as error:
        _report(" ".join((str(error) or "there is not enough memory").splitlines()))
        return REFUSED
    return 0


def _limit_memory(n_bytes: int) -> None:
    if any(device.kind != "cpu" for device in _core.list_devices()):
        return  # GPU drivers reserve far more address space than they use
    with suppress(OSError, ValueError):  # without /proc
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + n_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _use(path: Path) -> None:
    """Load the model, render a chat and generate; or embed a text."""
    _report("loading it")
    config = EngineConfig(n_ctx=256, max_seqs=1, warmup=False, n_gpu_layers=0)
    try:
        with BatchEngine(path, config, progress=False) as engine:
            has_template = engine.model_info()["has_chat_template"]
            prompt = [{"role": "user", "content": _PROMPT}] if has_template else _PROMPT
            _report("answering a prompt")
            engine.submit(prompt, SamplingParams(max_tokens=4)).result()
    except _core.NotGenerativeError:
        embedder = Embedder(path, EngineConfig(n_gpu_layers=0), progress=False)
        _report("embedding a text")
        embedder.embed(_PROMPT, truncate=True)


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
