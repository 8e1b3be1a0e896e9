"""Whether cached prefixes change outputs, with default kernels, over hundreds of requests.

With default kernels, logits of a row have noise that depends on the rest of the batch. Both
engines,
cache off and on, compute the logits after each prompt, half of which end with forced output
tokens. A different top token counts only if its margin exceeded four times the noise: the root mean
square of the margin's change in other rows.
The KV cache of the engine with the prefix cache holds a third of the distinct tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from llamaherd import BatchEngine, EngineConfig, SamplingParams, _core
from llamaherd.models import DEFAULT_MODEL, resolve

N_FORCED = 4
Tops = dict[int, list[tuple[int, float]]]


def agent_prompts(engine: BatchEngine, trajectories: Path, n: int, n_most: int) -> list[list[int]]:
    """Prompts of growing conversations with a common system prompt, each twice: unchanged, and
    followed by some tokens of the recorded answer."""
    prompts: list[list[int]] = []
    for task in json.loads(trajectories.read_text()):
        messages = []
        for message in task["traj"]:
            content = message.get("content") or json.dumps(message.get("tool_calls"))
            role = message["role"] if message["role"] in {"system", "user"} else "assistant"
            if role == "assistant" and len(messages) > 1:
                system = engine.tokenize(messages[0]["content"])[:400]
                text = engine.apply_chat_template(messages[1:]).text
                prompt = system + engine.tokenize(text)
                if len(prompt) + N_FORCED > n_most:
                    break
                prompts += [prompt, prompt + engine.tokenize(content)[:N_FORCED]]
                if len(prompts) >= n:
                    return prompts[:n]
            messages.append({"role": role, "content": content})
    return prompts


def run(path: Path, prompts: list[list[int]], **options: bool | int) -> tuple[Tops, _core.Metrics]:
    record = _core.LogitsRecord()
    config = EngineConfig(max_seqs=8, **options)._to_core()  # type: ignore[arg-type]
    engine = _core.BatchEngine(str(path), config, _core.LoadProgress(), False, record)
    params = SamplingParams(temperature=0, max_tokens=1)._to_core()
    for i, prompt in enumerate(prompts):
        engine.submit(prompt, params)
        if i % 3 == 2:
            engine.step()
    while engine.step():
        pass
    assert not any(delta.error for delta in engine.drain(0))
    metrics = engine.metrics()
    engine.close()
    return record.tops(), metrics


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trajectories", type=Path, help="tau-bench's: a JSON list with 'traj'")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--max-tokens", type=int, default=1500)
    args = parser.parse_args()
    path = resolve(args.model)
    with BatchEngine(path, EngineConfig(n_ctx=64, warmup=False)) as engine:
        prompts = agent_prompts(engine, args.trajectories, args.n, args.max_tokens)
    n_distinct = len({hash(tuple(p[: i + 1])) for p in prompts for i in range(len(p))})
    max_len = max(map(len, prompts)) + 2
    whole, _ = run(path, prompts, prefix_cache=False, n_ctx=8 * max_len, max_len=max_len)
    n_cells = max(max_len, n_distinct // 3)
    cached, metrics = run(path, prompts, n_ctx=n_cells, max_len=max_len, cache_ram_mib=64)

    rows = [(whole[prefix][0], tops[0]) for prefix, tops in cached.items()]
    same = [(a, b) for a, b in rows if a[0] == b[0]]
    noise = statistics.fmean([(a[1] - b[1]) ** 2 for a, b in same]) ** 0.5
    differ = [(a, b) for a, b in rows if a[0] != b[0]]
    wrong = [a for a, _ in differ if a[1] > 4 * noise]
    n_tokens = sum(map(len, prompts))
    print(
        f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, "
        f"{n_tokens} in all, {n_distinct} distinct, {n_cells} cells; hit rate "
        f"{metrics.cache.hit_rate:.2f}, from RAM {metrics.cache.n_from_ram}\n"
        f"{len(rows)} rows, noise {noise:.3f}; the top token differs in {len(differ)}, "
        f"beyond the margin in {len(wrong)}"
    )
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
