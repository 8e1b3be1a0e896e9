"""A prompt and its parameters as the core takes them."""

from __future__ import annotations

from dataclasses import dataclass

from llamaherd import _core
from llamaherd.chat import ReplyReader
from llamaherd.masks import Obeyed
from llamaherd.prompt import TokenIds


@dataclass(frozen=True)
class Prepared:
    """What the slow part of a submit, texts, templates and grammars, comes to."""

    token_ids: TokenIds
    params: _core.SamplingParams
    obeyed: Obeyed | None = None
    is_chat: bool = False
    chat_format: _core.ChatFormat | None = None

    def reader(self) -> ReplyReader | None:
        """What takes an output apart; of prompts that are no conversation, none."""
        return ReplyReader(self.chat_format) if self.is_chat else None
