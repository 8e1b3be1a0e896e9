"""Adapter of a model's vocabulary to llguidance."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from llamaherd import _core

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_SPECIAL = b"\xff"  # llguidance's prefix for names of special tokens


class _Vocabulary:
    """llguidance's tokenizer interface."""

    def __init__(self, core: _core.BatchEngine, as_text: Collection[int]) -> None:
        self._core = core
        self._parse_special = bool(as_text)
        ending = core.end_of_generation()
        self.eos_token_id = ending[0] if ending else 0
        self.bos_token_id = None
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        for token in range(int(core.model_info()["n_vocab"])):
            piece = core.token_bytes(token)
            if not piece:
                piece = core.token_name(token)
                if token not in as_text or not piece:
                    self.special_token_ids.append(token)
                    piece = _SPECIAL + piece
            self.tokens.append(piece)

    def __call__(self, text: bytes) -> list[int]:
        return self._core.tokenize(text.decode(errors="replace"), False, self._parse_special)


def make_tokenizer(core: _core.BatchEngine, as_text: Collection[int] = ()) -> LLTokenizer:
    """Create a tokenizer. Takes 0.1 s for 50,000 tokens.

    Args:
      core: Engine whose vocabulary is used.
      as_text: Special tokens that grammar literals may match by name.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    vocabulary = _Vocabulary(core, as_text)
    return LLTokenizer(
        TokenizerWrapper(vocabulary),
        n_vocab=len(vocabulary.tokens),
        eos_token=core.end_of_generation(),
    )
