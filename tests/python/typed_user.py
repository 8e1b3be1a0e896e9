"""A caller of the whole public API, for mypy --strict; test_types.py checks it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import llamaherd
import numpy as np
from llamaherd import (
    LLM,
    AssistantMessage,
    BatchEngine,
    ChatOptions,
    Delta,
    DeviceInfo,
    EngineConfig,
    EngineDeadError,
    FinishReason,
    Health,
    InvalidRequestError,
    LlamaHerdError,
    Metrics,
    ModelLoadError,
    QueueFullError,
    RequestOutput,
    SamplingParams,
    Stream,
    Timing,
    Usage,
    as_completed,
)
from llamaherd.request.prompt import Prompt
from llamaherd.tuning.workload import Recorder, Workload

CONFIG = EngineConfig(
    preset="balanced",
    n_ctx=512,
    max_len=256,
    max_seqs=2,
    token_budget=128,
    n_ubatch=64,
    target_itl_ms=40.5,
    max_queued=7,
    max_queued_tokens=9000,
    aging_s=60,
    tenant_weights={"acme": 2},
    n_threads=1,
    poll=0,
    n_gpu_layers=0,
    devices=["CPU"],
    tensor_split=(1.0,),
    split_mode="layer",
    main_gpu=0,
    use_mmap=True,
    use_mlock=False,
    kv_type="f16",
    chat_template="",
    deterministic=False,
    warmup=False,
)
PARAMS = SamplingParams(
    max_tokens=4,
    min_tokens=1,
    temperature=0.7,
    top_k=40,
    top_p=0.9,
    min_p=0.05,
    typical_p=1.0,
    repetition_penalty=1.1,
    frequency_penalty=0.1,
    presence_penalty=0.1,
    logit_bias={5: -1.0},
    seed=1,
    ignore_eos=True,
    stop_token_ids=[2],
    stop=["\n\n"],
    echo=False,
)
MESSAGES = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def offline(model: str | Path) -> list[str]:
    with LLM(model, CONFIG, progress=False) as llm:
        results: list[RequestOutput] = llm.generate("Hi", PARAMS)
        mixed: list[Prompt] = ["Hi", [5, 6], MESSAGES, np.array([5, 6])]
        results += llm.generate(mixed, [PARAMS] * 4)
        results += llm.generate([5, 6], PARAMS, progress=False)
        results.append(llm.chat(MESSAGES, PARAMS, ChatOptions(tools=TOOLS, tool_choice="none")))
        deltas: Iterator[Delta] = llm.stream(MESSAGES, PARAMS)
        texts: list[str] = [delta.text for delta in deltas]
        return texts + [result.text for result in results if result.error == ""]


def tuned(path: Path) -> EngineConfig:
    CONFIG.to_file(path, comment="by hand")
    config: EngineConfig = EngineConfig.from_file(path)
    return config


def replayed(path: str, ids: list[int], result: RequestOutput) -> list[list[int]]:
    with Recorder(path) as recorder:
        recorder.add(ids, result, priority=1, tenant="acme")
    workload: Workload = Workload.load(path)
    prompts: list[list[int]] = workload.prompts(n_vocab=1000, seed=1)
    return prompts + Workload.builtin("mixed", n_requests=2).prompts(1000)


def describe(result: RequestOutput) -> tuple[int, int, int, float]:
    usage: Usage = result.usage
    timing: Timing | None = result.timing
    spent_ns: dict[str, int] = {} if timing is None else timing.spent_ns
    assert sum(spent_ns.values()) >= 0
    reason: FinishReason = result.finish_reason
    token_ids: list[int] = result.token_ids
    assert reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert len(token_ids) == usage.completion_tokens
    ttft_s = 0.0 if timing is None else (timing.first_token_ns - timing.submit_ns) * 1e-9
    return usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, ttft_s


async def serve(engine: BatchEngine) -> RequestOutput:
    async with engine.submit("Hi", PARAMS) as stream:
        async for delta in stream:
            reason: FinishReason | None = delta.finish_reason
            ids: list[int] = delta.token_ids
            assert reason is None or ids is not None
    return await stream.aresult()


def application(model: str | Path) -> int:
    try:
        with BatchEngine(model, CONFIG, progress=False, threaded=True) as engine:
            streams: list[Stream] = [engine.submit(p, PARAMS) for p in ("Hi", (5, 6))]
            streams.append(engine.submit(MESSAGES, chat=ChatOptions(), params=PARAMS))
            for stream in as_completed(streams):
                describe(stream.result(timeout=300.0))
            streams[0].cancel()
            engine.submit("Hi", priority=1, tenant="acme", deadline_s=60, ttft_deadline_s=30.5)
            health: Health = engine.health()
            assert health.ok or health.reason
            asyncio.run(serve(engine))
            ids: list[int] = engine.tokenize("Hi", add_special=True, parse_special=False)
            text: str = engine.detokenize(ids, special=False)
            chat = engine.apply_chat_template(
                MESSAGES, ChatOptions(thinking=False), add_generation_prompt=True
            )
            reply: AssistantMessage | None = engine.submit(MESSAGES).result().reply
            assert reply is None or reply.content or reply.tool_calls
            metrics: Metrics = engine.metrics()
            figures: dict[str, float] = metrics.as_dict()
            assert text + chat.text + "".join(chat.stop)
            assert engine.model_info()["n_ctx"] == 512
            assert not engine.closed
            return int(figures["n_submitted"])
    except InvalidRequestError as error:
        as_value_error: ValueError = error
        print(as_value_error)
    except QueueFullError as error:
        print(error.retry_after_s)
    except (EngineDeadError, ModelLoadError) as error:
        ours: LlamaHerdError = error
        print(ours)
    return 0


def main() -> None:
    devices: list[DeviceInfo] = llamaherd.list_devices()
    names: list[str] = [device.name for device in devices]
    print(llamaherd.__version__, names, offline(sys.argv[1]), application(sys.argv[1]))


if __name__ == "__main__":
    main()
