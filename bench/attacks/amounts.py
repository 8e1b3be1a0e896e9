"""Excessive numbers of prompts, outputs, biases, texts, messages, tokens."""

from __future__ import annotations

from attacks.attack import (
    CHAT,
    COMPLETIONS,
    EITHER,
    REFUSED,
    Attack,
    calling,
    chat,
    completion,
    post,
    post_unique,
)

N_VOCAB = 49152
EMBEDDINGS, RERANK, SCORE = "/v1/embeddings", "/v1/rerank", "/v1/score"
ALL_BIASES = {str(i): 1 for i in range(N_VOCAB)}
TEXTS = [f"text {i}" for i in range(60_000)]
EMBEDDED = EITHER | {404}  # 404: the model does not exist


ATTACKS = [
    Attack(
        "400 prompts, 128 outputs each, a bias for every token",
        "amounts",
        post(
            COMPLETIONS,
            lambda: completion(["Hi"] * 400, n=128, logit_bias=ALL_BIASES, max_tokens=64),
        ),
        EITHER,
    ),
    Attack(
        "8 prompts, 128 outputs each, a bias for every token",
        "amounts",
        post(
            COMPLETIONS, lambda: completion(["Hi"] * 8, n=128, logit_bias=ALL_BIASES, max_tokens=64)
        ),
        EITHER,
    ),
    Attack(
        "128 outputs of a long prompt",
        "amounts",
        post(COMPLETIONS, lambda: completion("a b c d " * 900, n=128, max_tokens=2000)),
        EITHER,
    ),
    Attack(
        "128 outputs, log-probabilities of 50",
        "amounts",
        post(
            COMPLETIONS,
            lambda: completion(n=128, best_of=128, logprobs=50, max_tokens=200, ignore_eos=True),
        ),
        EITHER,
    ),
    Attack(
        "log-probabilities of 50 of 4,000 tokens",
        "amounts",
        post(COMPLETIONS, lambda: completion(logprobs=50, max_tokens=4000, ignore_eos=True)),
        EITHER,
        quick=False,
    ),
    Attack(
        "log-probabilities of 50, streamed",
        "amounts",
        post(
            COMPLETIONS,
            lambda: completion(logprobs=50, max_tokens=4000, ignore_eos=True, stream=True),
        ),
        EITHER,
        quick=False,
    ),
    Attack(
        "log-probabilities of a long prompt",
        "amounts",
        post(
            COMPLETIONS,
            lambda: completion("a b c d " * 900, echo=True, logprobs=50, max_tokens=1),
        ),
        EITHER,
        quick=False,
    ),
    Attack(
        "60,000 prompts",
        "amounts",
        post(COMPLETIONS, lambda: completion(TEXTS, max_tokens=1)),
        EITHER,
    ),
    Attack(
        "a prompt of a million tokens",
        "amounts",
        post(COMPLETIONS, lambda: completion([1] * 1_000_000)),
        REFUSED,
    ),
    Attack(
        "300,000 prompts of a token",
        "amounts",
        post(COMPLETIONS, lambda: completion([[1]] * 300_000)),
        EITHER,
    ),
    Attack(
        "500,000 stop tokens",
        "amounts",
        post(COMPLETIONS, lambda: completion(stop_token_ids=list(range(500_000)))),
        REFUSED,
    ),
    Attack(
        "stop tokens out of range",
        "amounts",
        post(COMPLETIONS, lambda: completion(stop_token_ids=[-1, 2**31, 2**63, 10**30])),
        REFUSED,
    ),
    Attack(
        "token ids out of range",
        "amounts",
        post(COMPLETIONS, lambda: completion([-1, 2**31, 10**30])),
        REFUSED,
    ),
    Attack(
        "a million tokens made text",
        "amounts",
        post("/detokenize", lambda: {"tokens": [5] * 1_000_000}),
        EITHER,
    ),
    Attack(
        "token ids out of range made text",
        "amounts",
        post("/detokenize", lambda: {"tokens": [-1, 2**31, 10**30]}),
        REFUSED,
    ),
    Attack(
        "60,000 texts embedded",
        "amounts",
        post(EMBEDDINGS, lambda: {"model": "embed", "input": TEXTS}),
        EMBEDDED,
    ),
    Attack(
        "2,000 texts embedded",
        "amounts",
        post(EMBEDDINGS, lambda: {"model": "embed", "input": TEXTS[:2000]}, patience_s=60),
        EMBEDDED,
        quick=False,
    ),
    Attack(
        "60,000 documents ranked",
        "amounts",
        post(RERANK, lambda: {"model": "embed", "query": "x", "documents": TEXTS}),
        EMBEDDED,
    ),
    Attack(
        "60,000 continuations scored",
        "amounts",
        post(SCORE, lambda: {"prompt": "x", "continuations": TEXTS}),
        EITHER,
    ),
    Attack(
        "2,000 continuations scored",
        "amounts",
        post(SCORE, lambda: {"prompt": "x", "continuations": TEXTS[:2000]}),
        EITHER,
        quick=False,
    ),
    Attack(
        "1,024 messages",
        "amounts",
        post(CHAT, lambda: {"messages": [{"role": "user", "content": "x"}] * 1024}),
        EITHER,
    ),
    Attack(
        "100,000 messages",
        "amounts",
        post(CHAT, lambda: {"messages": [{"role": "user", "content": "x"}] * 30_000}),
        REFUSED,
    ),
    Attack(
        "a message of 30,000 parts",
        "amounts",
        post(CHAT, lambda: chat([{"type": "text", "text": "x"}] * 30_000)),
        EITHER,
    ),
    Attack(
        "a message of 10,000 calls",
        "amounts",
        post(
            CHAT,
            lambda: {
                "messages": [
                    {
                        **calling("{}")["messages"][1],
                        "tool_calls": calling("{}")["messages"][1]["tool_calls"] * 10_000,
                    }
                ]
            },
        ),
        EITHER,
    ),
    Attack(
        "300 rounds of a tool",
        "amounts",
        post(
            CHAT,
            lambda: {
                **chat(),
                "messages": calling('{"x": "' + "y" * 3000 + '"}')["messages"] * 300,
            },
        ),
        EITHER,
    ),
    Attack(
        "100 MB announced, 4 MB sent",
        "amounts",
        post(CHAT, lambda: chat("x" * 5_000_000)),
        REFUSED,
    ),
    Attack(
        "numbers out of range",
        "amounts",
        post(
            COMPLETIONS,
            lambda: completion(
                max_tokens=2**62, seed=-1, n=2**40, top_k=-5, min_tokens=2**33, temperature=1e308
            ),
        ),
        REFUSED,
    ),
    Attack(
        "a bias for 300,000 tokens that are not",
        "amounts",
        post(
            COMPLETIONS,
            lambda: completion(logit_bias={str(i): 1 for i in range(10**6, 10**6 + 200_000)}),
        ),
        REFUSED,
    ),
    Attack(
        "tenants without end",
        "amounts",
        post_unique(COMPLETIONS, lambda unique: completion(user=unique, max_tokens=1)),
        EITHER,
        n_clients=16,
    ),
    Attack(
        "salts without end",
        "amounts",
        post_unique(COMPLETIONS, lambda unique: completion(cache_salt=unique, max_tokens=1)),
        EITHER,
        n_clients=16,
    ),
    Attack(
        "long prompts without a common prefix",
        "amounts",
        post_unique(
            COMPLETIONS, lambda unique: completion(f"{unique} " + "a b c d " * 500, max_tokens=1)
        ),
        EITHER,
        quick=False,
    ),
]
