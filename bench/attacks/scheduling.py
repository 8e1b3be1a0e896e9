"""Requests that are valid, but too many or too long."""

from __future__ import annotations

import asyncio

from attacks.attack import (
    CHAT,
    COMPLETIONS,
    EITHER,
    LEFT,
    REFUSED,
    Attack,
    Client,
    as_json,
    chat,
    completion,
    post,
    post_unique,
)

FOREVER = 10**9


async def cancel_storm(client: Client) -> int:
    """50 concurrent requests, all disconnected after a moment."""
    body = as_json(chat(max_tokens=200, n=4, ignore_eos=True, stream=True))
    asks = [client.ask("POST", CHAT, body, patience_s=0.02 * (i % 5)) for i in range(50)]
    statuses = await asyncio.gather(*asks)
    return next((status for status in statuses if status not in (LEFT, 200, 429, 503)), LEFT)


ATTACKS = [
    Attack("a storm of cancelled requests", "scheduling", cancel_storm, EITHER),
    Attack(
        "long answers that fill the cache",
        "scheduling",
        post_unique(
            COMPLETIONS,
            lambda unique: completion(
                f"{unique} " + "a b c d " * 200, n=8, max_tokens=FOREVER, ignore_eos=True
            ),
        ),
        EITHER,
        n_clients=8,
        quick=False,
    ),
    Attack(
        "the most urgent class without end",
        "scheduling",
        post_unique(
            COMPLETIONS,
            lambda unique: completion(
                f"{unique} " + "a b c d " * 300, priority=0, max_tokens=2, user=unique
            ),
        ),
        EITHER,
        n_clients=16,
    ),
    Attack(
        "deadlines that have passed",
        "scheduling",
        post(COMPLETIONS, lambda: completion(deadline_s=1e-300, ttft_deadline_s=1e-300)),
        EITHER,
        n_clients=16,
    ),
    Attack(
        "deadlines without end",
        "scheduling",
        post(COMPLETIONS, lambda: completion(deadline_s=1e308, ttft_deadline_s=1e308)),
        EITHER,
    ),
    Attack(
        "invalid deadlines",
        "scheduling",
        post(COMPLETIONS, lambda: completion(deadline_s=float("nan"), ttft_deadline_s=-1)),
        REFUSED,
    ),
    Attack(
        "priorities out of range",
        "scheduling",
        post(COMPLETIONS, lambda: completion(priority=-(10**30))),
        REFUSED,
    ),
    Attack(
        "min_tokens and max_tokens without end",
        "scheduling",
        post(COMPLETIONS, lambda: completion(min_tokens=2**31 - 1, max_tokens=2**31 - 1)),
        EITHER,
        quick=False,
    ),
    Attack(
        "128 outputs, the best of 128",
        "scheduling",
        post(
            COMPLETIONS,
            lambda: completion(n=128, best_of=128, max_tokens=400, ignore_eos=True, seed=2**64 - 1),
        ),
        EITHER,
        n_clients=8,
        quick=False,
    ),
    Attack(
        "prompts that repeat themselves",
        "scheduling",
        post_unique(
            COMPLETIONS,
            lambda unique: completion(unique + " ab" * 3000, max_tokens=200, temperature=2),
        ),
        EITHER,
        n_clients=4,
        quick=False,
    ),
    Attack(
        "one long prompt after the other",
        "scheduling",
        post_unique(COMPLETIONS, lambda unique: completion(unique + " ab" * 7000, max_tokens=1)),
        EITHER,
        n_clients=4,
        quick=False,
    ),
    Attack(
        "biases for every token, one after the other",
        "scheduling",
        post(
            COMPLETIONS,
            lambda: completion(
                logit_bias={str(i): -1 for i in range(49_000)},
                repetition_penalty=1.5,
                max_tokens=50,
            ),
        ),
        EITHER,
        n_clients=8,
    ),
]
