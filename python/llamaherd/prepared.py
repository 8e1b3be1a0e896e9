"""A prompt and its parameters as the core takes them."""

from __future__ import annotations

from dataclasses import dataclass

from llamaherd import _core
from llamaherd.prompt import TokenIds
from llamaherd.structured import Guide


@dataclass(frozen=True)
class Prepared:
    """What the slow part of a submit, texts, templates and grammars, comes to."""

    token_ids: TokenIds
    params: _core.SamplingParams
    guide: Guide | None = None
