"""Whether a constraint accepts a JSON value, with a vocabulary of bytes in place of a model's."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from llamaherd import SamplingParams, _core
from llamaherd.structured_output.guides import Guide, GuideCache, error_of, mask_of
from llamaherd.structured_output.rule import Rule
from llamaherd.structured_output.tool_schemas import ToolSchemas
from rule_child import ENDING, Vocabulary


@lru_cache(maxsize=1)
def guides() -> GuideCache:
    return GuideCache(cast("_core.BatchEngine", Vocabulary()))


def schema_guide(schema: Any, made_by: GuideCache | None = None) -> Guide:
    """The guide of a response format."""
    rule = SamplingParams(json_schema=schema).rule
    assert rule is not None
    return (made_by or guides()).make(rule)


def tool(parameters: Any, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def tools_guide(
    *tools: dict[str, Any], apart: bool = False, made_by: GuideCache | None = None
) -> Guide:
    """The guide of a grammar that consists of the arguments of tools: those of one tool, or, apart,
    one argument."""
    schemas = ToolSchemas(tools)
    _, marked = schemas.marked_apart() if apart else schemas.marked_whole()
    options = " | ".join(json.dumps(schema.mark) for schema in marked)
    return (made_by or guides()).make(Rule("tools", f"root ::= {options}", tuple(marked)))


def accepts(guide: Guide, value: Any) -> bool:
    """Whether a guide accepts a value, written as json.dumps() does."""
    matcher = guide.matcher.deep_copy()
    text = json.dumps(value, ensure_ascii=False).encode()
    tokens = guide.tokenizer.tokenize_bytes(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


# What ends strings, values and elements.
_ENDS = frozenset((b'"', b"}", b"]", b",", b":", b": ", b'"}', b"0", b"1", b"a", b"e", b"l", b"n"))


@dataclass(frozen=True)
class Walk:
    """A random output: its text, and how it ended: "end", "cut" or an error of the matcher."""

    text: str
    end: str


def walk(guide: Guide, seed: int, ending: Sequence[int] = (ENDING,), most: int = 200) -> Walk:
    """A random output of at most `most` tokens that a guide allows. It favours short texts.

    Args:
      ending: The tokens that end an output.
    """
    draw = random.Random(seed)
    matcher = guide.matcher.deep_copy()
    text = b""
    for _ in range(most):
        mask = mask_of(matcher, len(guide.names))
        if mask is None:
            return Walk(text.decode(errors="replace"), error_of(matcher))
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        n_ends = bits[list(ending)].sum()
        if n_ends and (draw.random() < 0.5 or bits.sum() == n_ends):
            return Walk(text.decode(errors="replace"), "end")
        allowed = [t for t in np.flatnonzero(bits).tolist() if t not in ending]
        if not allowed:
            return Walk(text.decode(errors="replace"), "no token is allowed")
        likely = [token for token in _ends(guide) if bits[token]]
        token = draw.choice(likely if likely and draw.random() < 0.7 else allowed)
        if not matcher.consume_token(token):
            return Walk(text.decode(errors="replace"), error_of(matcher))
        text += guide.names[token]
    return Walk(text.decode(errors="replace"), "cut")


def _ends(guide: Guide) -> list[int]:
    key = id(guide.names)
    if key not in _known_ends:
        _known_ends[key] = [t for t, name in enumerate(guide.names) if name in _ENDS]
    return _known_ends[key]


_known_ends: dict[int, list[int]] = {}
