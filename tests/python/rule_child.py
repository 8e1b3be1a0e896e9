"""Makes rules ready, as the engine does, and walks through them: one for each line of input."""

from __future__ import annotations

import json
import random
import resource
import sys
from typing import Any, cast

from llamaherd import InvalidRequestError, SamplingParams, _core
from llamaherd.structured_output.guides import GuideCache, mask_of

_MEMORY = 4 << 30
_N_TOKENS = 40
ENDING = 256


class Vocabulary:
    """Bytes, and words of random letters: stands for a model."""

    def __init__(self) -> None:
        draw = random.Random(1)
        words = {
            "".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=draw.randint(2, 6)))
            for _ in range(20_000)
        }
        self._tokens = [bytes([i]) for i in range(256)] + [b"<eos>"]
        self._tokens += [word.encode() for word in sorted(words)]

    def model_info(self) -> dict[str, Any]:
        return {"n_vocab": len(self._tokens)}

    def end_of_generation(self) -> list[int]:
        return [ENDING]

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == ENDING else self._tokens[token]

    def token_name(self, token: int) -> bytes:
        return self._tokens[token]

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return list(text.encode())


def outcome_of(guides: GuideCache, options: dict[str, Any]) -> str:
    try:
        rule = SamplingParams(**options).rule
        assert rule is not None
        guide = guides.make(rule)
    except InvalidRequestError:
        return "refused"
    matcher = guide.matcher.deep_copy()
    n_vocab = len(guide.names)
    draw = random.Random(2)
    for _ in range(_N_TOKENS):
        mask = mask_of(matcher, n_vocab)
        if mask is None:
            return "failed"
        allowed = [t for t in range(n_vocab) if mask[t >> 3] >> (t & 7) & 1 and t != ENDING]
        if not allowed:
            break
        matcher.consume_token(draw.choice(allowed))
    return "made"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    guides = GuideCache(cast("_core.BatchEngine", Vocabulary()))
    for line in sys.stdin:
        print(json.dumps(outcome_of(guides, json.loads(line))), flush=True)
