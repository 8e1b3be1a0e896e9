"""Overhead of HTTP: 8 streaming clients of a server against `LLM.generate` on the same requests.

    python bench/http_cost.py [--model MODEL] [--threads N] [--runs 5]

The server is a separate process, the clients are this process, on the same cores; interleaved runs,
medians, and the median of the ratios per round. 64 requests per run: 32 words each, 64 greedy
tokens. Also prints the CPU time of clients and server. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import time

from engine_load import add_options
from llamaherd import LLM, EngineConfig, SamplingParams
from llamaherd.benchmark.load.generator import LoadSpec, run_load, synthetic_bodies
from llamaherd.benchmark.load.measurements import summary
from served import Server

N_REQUESTS, N_CLIENTS, N_NEW = 64, 8, 64


def own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    args = parser.parse_args()
    config = EngineConfig(n_threads=args.threads, max_seqs=N_CLIENTS, n_ctx=8192)
    params = SamplingParams(temperature=0, max_tokens=N_NEW, ignore_eos=True)
    server = Server(args.model, ["--max-seqs", str(N_CLIENTS), "--n-ctx", "8192"], args.threads)
    served, generated, clients_s, server_s = [], [], [], []
    try:
        with LLM(args.model, config, progress=False) as llm:
            for turn in range(args.runs + 1):
                bodies = synthetic_bodies(
                    N_REQUESTS,
                    shared_words=0,
                    words=32,
                    max_tokens=N_NEW,
                    path="chat/completions",
                    seed=turn,
                )
                own, theirs = own_cpu_s(), server.cpu_s()
                spec = LoadSpec(url=server.url + "/v1", bodies=bodies, concurrency=N_CLIENTS)
                figures = summary(asyncio.run(run_load(spec)))
                clients_s.append(own_cpu_s() - own)
                server_s.append(server.cpu_s() - theirs)
                begin = time.perf_counter()
                results = llm.generate([body["messages"] for body in bodies], params)
                seconds = time.perf_counter() - begin
                served.append(figures["tokens_per_s"])
                generated.append(sum(r.usage.completion_tokens for r in results) / seconds)
    finally:
        server.close()
    # The first round is warm-up.
    ratios = [a / b for a, b in zip(served[1:], generated[1:], strict=True)]
    print("| | tokens/s |")
    print("| --- | --- |")
    print(f"| LLM.generate | {statistics.median(generated[1:]):.0f} |")
    print(f"| {N_CLIENTS} streaming clients | {statistics.median(served[1:]):.0f} |")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    n_tokens = N_REQUESTS * N_NEW
    print(f"CPU time of clients: {1e6 * statistics.median(clients_s[1:]) / n_tokens:.0f} us/token")
    print(f"CPU time of server: {1e6 * statistics.median(server_s[1:]) / n_tokens:.0f} us/token")


if __name__ == "__main__":
    main()
