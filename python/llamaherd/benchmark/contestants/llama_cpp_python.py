"""llama-cpp-python's `Llama`, in process. Requests run one at a time: it has one sequence."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version

from llamaherd.benchmark.contestants.contestant import ContestantConfig, Unavailable
from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.scenario import BenchmarkRequest

try:
    import llama_cpp
except ModuleNotFoundError as error:
    raise Unavailable("requires the package llama-cpp-python") from error


class LlamaCppPython:
    """Reuses the prefix shared with the previous prompt, as `Llama` does by default."""

    def __init__(self, setup: ContestantConfig) -> None:
        self.version = f"llama-cpp-python {version('llama-cpp-python')}"
        self._llama = llama_cpp.Llama(
            setup.model,
            n_ctx=max(512, setup.n_ctx // setup.n_seqs),
            n_threads=setup.n_threads,
            n_threads_batch=setup.n_threads,
            verbose=False,
        )
        self._turn = asyncio.Lock()

    async def ask(self, ask: BenchmarkRequest) -> RequestMeasurement:
        answered = RequestMeasurement(time.perf_counter())
        async with self._turn:
            await asyncio.to_thread(self._answer, ask, answered)
        answered.ended_s = time.perf_counter()
        return answered

    def _answer(self, ask: BenchmarkRequest, answered: RequestMeasurement) -> None:
        tokens = self._llama.tokenize(ask.prompt.encode())
        answered.n_prompt = len(tokens)
        for _ in self._llama.generate(tokens, temp=0.0):
            answered.token_s.append(time.perf_counter())
            if len(answered.token_s) == ask.max_tokens:
                break
        answered.n_completion = len(answered.token_s)

    def sample(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._llama.close()
