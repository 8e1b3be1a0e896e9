"""OpenVINO GenAI's continuous batching, in process."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from llamaherd.benchmark.contestants.contestant import ContestantConfig, Unavailable
from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.scenario import BenchmarkRequest

try:
    import openvino_genai
except ModuleNotFoundError as error:
    raise Unavailable("requires the package openvino-genai") from error


@dataclass
class _Running:
    """A request shared by the stepping thread and the event loop."""

    ask: BenchmarkRequest
    answered: RequestMeasurement
    ended: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop
    handle: Any = None

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.ended.set_result, None)


class OpenVino:
    """OpenVINO GenAI with prefix caching and dynamic split-fuse; one KV cache for all requests.

    It converts the weights of a GGUF file into its own graph.
    """

    def __init__(self, setup: ContestantConfig) -> None:
        self.version = f"OpenVINO GenAI {version('openvino-genai')}"
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_seqs = setup.n_seqs
        scheduler.cache_size = 1  # GB: more than any scenario needs
        properties = {"INFERENCE_NUM_THREADS": setup.n_threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            setup.model, scheduler, "CPU", properties
        )
        self._tokenizer = self._pipeline.get_tokenizer()
        self._ids = itertools.count()
        self._inbox: queue.Queue[_Running | None] = queue.Queue()
        self._running: list[_Running] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def ask(self, ask: BenchmarkRequest) -> RequestMeasurement:
        loop = asyncio.get_running_loop()
        running = _Running(ask, RequestMeasurement(time.perf_counter()), loop.create_future(), loop)
        self._inbox.put(running)
        await running.ended
        running.answered.ended_s = time.perf_counter()
        return running.answered

    def sample(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._take():
            if self._running:
                self._pipeline.step()
                self._running = [running for running in self._running if not self._read(running)]

    def _take(self) -> bool:
        """Start queued requests; waits for one if none is running. False: closed."""
        while True:
            try:
                running = self._inbox.get(block=not self._running)
            except queue.Empty:
                return True
            if running is None:
                return False
            self._begin(running)

    def _begin(self, running: _Running) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = running.ask.max_tokens
        config.ignore_eos = True
        config.do_sample = False
        tokens = self._tokenizer.encode(running.ask.prompt).input_ids
        running.answered.n_prompt = tokens.get_shape()[1]
        running.handle = self._pipeline.add_request(next(self._ids), tokens, config)
        self._running.append(running)

    def _read(self, running: _Running) -> bool:
        """Record new tokens; returns whether the request has finished."""
        while running.handle.can_read():
            for output in running.handle.read().values():
                now = time.perf_counter()
                running.answered.token_s += [now] * len(output.generated_ids)
        if len(running.answered.token_s) < running.ask.max_tokens:
            if running.handle.get_status() == openvino_genai.GenerationStatus.RUNNING:
                return False
            running.answered.error = f"finished with status {running.handle.get_status()}"
        running.answered.n_completion = len(running.answered.token_s)
        running.end()
        return True
