"""Fuzz: texts are split at special tokens, and tokenized, as llama.cpp does it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import _core
from llamaherd.config.params import EngineConfig

VOCABS = {
    "bpe": tiny.bpe(),
    "bpe_smollm": tiny.bpe("smollm", add_bos=False),
    "bpe_strips": tiny.bpe(name="phi-3"),
    "spm": tiny.spm(),
    "spm_strips": tiny.spm(name="phi-3"),
    "wpm": tiny.wpm(),
    "ugm": tiny.ugm(),
    "rwkv": tiny.rwkv(),
}
NAMES = [*tiny.CONTROL, *tiny.USER_DEFINED, "[MASK]", "<unk>"]
WORDS = [" ", "  ", "\n", "a", "ab", "aaaa", "12", "é", "日本語", "😀", "▁", ".", "\x00", "\u3000"]
texts = st.lists(st.sampled_from([*NAMES, *WORDS]) | st.text(max_size=3), max_size=24).map("".join)


class Models:
    """One for each kind of tokenizer, made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, _core.BareModel] = {}

    def get(self, kind: str) -> _core.BareModel:
        if kind not in self._made:
            path = tiny.write(VOCABS[kind], self._folder / f"{kind}.gguf")
            config = EngineConfig(n_ctx=64, max_seqs=1, n_threads=1)._to_core()
            self._made[kind] = _core.BareModel(str(path), config)
        return self._made[kind]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


@fuzz
@given(
    kind=st.sampled_from(sorted(VOCABS)),
    text=texts,
    add_special=st.booleans(),
    parse_special=st.booleans(),
)
def test_tokens_are_those_of_llama_cpp(
    models: Models, kind: str, text: str, add_special: bool, parse_special: bool
) -> None:
    model = models.get(kind)
    tokens = model.tokenize(text, add_special, parse_special)
    assert tokens == model.tokenize_by_llama(text, add_special, parse_special)
    assert model.least_tokens(text) <= len(tokens)
