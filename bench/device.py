"""Tokens per second by number of sequences, on the device of the model.

    python bench/device.py [--model MODEL] [--runs 3] [--widths 1,8,64]
    python bench/device.py --random FILE    # a Llama of 1.1 billion random weights, created if
    missing

Prompts are random tokens: 64 distinct ones after a common prefix of 1,024. Greedy, 128 output
tokens each, measured from the time when all have their first token to the end of the last; medians.
Also prints the breakdown of step time, and the number of outputs equal to those of each request
alone (calls of another shape round differently: some differ). Run on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from llamaherd import LLM, BatchEngine, EngineConfig, SamplingParams, list_devices

N_SHARED, N_OWN, N_NEW = 1024, 64, 128
PARAMS = SamplingParams(temperature=0, max_tokens=N_NEW, ignore_eos=True, prompt_lookup=False)


def write_random(path: Path) -> None:
    """The shape of TinyLlama-1.1B, F16."""
    from gguf import GGUFWriter

    n_embd, n_ff, n_head, n_kv, n_layer, n_vocab = 2048, 5632, 32, 4, 22, 32000
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(1 << 17)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_vocab_size(n_vocab)
    writer.add_feed_forward_length(n_ff)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_kv)
    writer.add_tokenizer_model("test")
    writer.add_token_list([f"tok_{i}" for i in range(n_vocab)])
    writer.add_token_scores([0.0] * n_vocab)
    writer.add_token_types([1] * n_vocab)
    rng = np.random.default_rng(7)

    def add(name: str, *shape: int, scale: float = 1.0) -> None:
        values = rng.standard_normal(shape, dtype=np.float32) * scale / np.sqrt(shape[-1])
        vector = len(shape) == 1
        writer.add_tensor(name, (values + vector).astype(np.float32 if vector else np.float16))

    add("token_embd.weight", n_vocab, n_embd, scale=8)
    add("output.weight", n_vocab, n_embd, scale=8)
    add("output_norm.weight", n_embd)
    for i in range(n_layer):
        add(f"blk.{i}.attn_norm.weight", n_embd)
        for name, rows in (("q", n_embd), ("k", 64 * n_kv), ("v", 64 * n_kv), ("output", n_embd)):
            add(f"blk.{i}.attn_{name}.weight", rows, n_embd)
        add(f"blk.{i}.ffn_norm.weight", n_embd)
        add(f"blk.{i}.ffn_gate.weight", n_ff, n_embd)
        add(f"blk.{i}.ffn_up.weight", n_ff, n_embd)
        add(f"blk.{i}.ffn_down.weight", n_embd, n_ff)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prompts_of(n_vocab: int, n: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    shared = rng.integers(10, n_vocab, N_SHARED).tolist()
    return [shared + rng.integers(10, n_vocab, N_OWN).tolist() for _ in range(n)]


def run(engine: BatchEngine, prompts: list[list[int]]) -> tuple[float, list[list[int]]]:
    """Tokens per second, and the outputs."""
    with engine._together():
        streams = [engine.submit(prompt, PARAMS) for prompt in prompts]
    results = [stream.result(timeout=600) for stream in streams]
    timings = [result.timing for result in results if result.timing]
    begin = max(timing.first_token_ns for timing in timings)
    end = max(timing.last_ns for timing in timings)
    return len(prompts) * (N_NEW - 1) / (end - begin) * 1e9, [r.token_ids for r in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--random", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--widths", default="1,2,4,8,16,32,64")
    parser.add_argument("--n-gpu-layers", type=int, default=-1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--poll", type=int, default=1)
    args = parser.parse_args()
    if args.random and not args.random.exists():
        write_random(args.random)
    widths = [int(width) for width in args.widths.split(",")]
    most = max(widths)
    config = EngineConfig(
        max_seqs=most,
        n_ctx=N_SHARED + most * (N_OWN + N_NEW + 32),
        max_len=N_SHARED + N_OWN + N_NEW,
        n_gpu_layers=args.n_gpu_layers,
        n_threads=args.threads,
        poll=args.poll,
    )
    print("devices:", [device.description for device in list_devices()])
    with LLM(args.random or args.model, config, progress=False) as llm:
        engine = llm.engine
        prompts = prompts_of(engine.model_info()["n_vocab"], most)
        alone = [run(engine, [prompt])[1][0] for prompt in prompts[: min(most, 16)]]
        print(
            "| sequences | tokens/s | x one | ms/step | decode % | sample % | host % | as alone |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        first = 0.0
        for width in widths:
            before = engine.metrics()
            rates = []
            for _ in range(args.runs):
                rate, outputs = run(engine, prompts[:width])
                rates.append(rate)
            after = engine.metrics()
            rate = statistics.median(rates)
            first = first or rate
            step, decode, sample = (
                getattr(after, name) - getattr(before, name)
                for name in ("step_ns", "decode_ns", "sample_ns")
            )
            same = sum(a == b for a, b in zip(alone, outputs, strict=False))
            print(
                f"| {width} | {rate:.0f} | {rate / first:.2f} | {1e3 * width / rate:.2f} "
                f"| {decode / step:.0%} | {sample / step:.0%} "
                f"| {(after.host_ns - before.host_ns) / step:.0%} "
                f"| {same} of {min(width, len(alone))} |",
                flush=True,
            )
        cache = engine.metrics().cache
        print("hit rate", round(engine.metrics().cache.hit_rate, 3) if cache else None)


if __name__ == "__main__":
    main()
