"""Tokenizing takes time and stack that are bounded by the text's size."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from llamaherd import BatchEngine, EngineConfig, InvalidRequestError, ModelLoadError

CONFIG = EngineConfig(n_ctx=512, max_seqs=1, n_threads=1, warmup=False)


def tokens_in_thread(engine: BatchEngine, text: str) -> list[int]:
    """As a server does it: on a stack of a thread's usual size."""
    made: list[list[int]] = []
    thread = threading.Thread(target=lambda: made.append(engine.tokenize(text)))
    thread.start()
    thread.join(120)
    assert made, "tokenizing did not end"
    return made[0]


@pytest.mark.parametrize("pre", ["default", "falcon", "deepseek-llm", "deepseek-v3", "tekken"])
def test_a_long_word_does_not_exhaust_the_stack(tmp_path: Path, pre: str) -> None:
    with BatchEngine(tiny.write(tiny.bpe(pre), tmp_path / "m.gguf"), CONFIG) as engine:
        for unit in ("!", "A", "日"):
            assert len(tokens_in_thread(engine, unit * 100_000)) > 1000


def test_special_tokens_take_linear_time(tmp_path: Path) -> None:
    with BatchEngine(tiny.write(tiny.bpe(), tmp_path / "m.gguf"), CONFIG) as engine:
        tokens = tokens_in_thread(engine, "<|a|>a" * 200_000)
        assert len(tokens) == 400_001
        assert tokens[1:3] * 200_000 == tokens[1:]


@pytest.mark.parametrize("kind", [tiny.bpe, tiny.spm, tiny.rwkv])
def test_a_prompt_that_cannot_fit_is_refused_by_its_bytes(tmp_path: Path, kind: object) -> None:
    assert callable(kind)
    with BatchEngine(tiny.write(kind(), tmp_path / "m.gguf"), CONFIG) as engine:
        text = "ab" * 50_000
        too_long = "is 512 tokens .* the prompt has 100000 bytes, at least"
        with pytest.raises(InvalidRequestError, match=too_long):
            engine.submit(text)
        assert len(engine.tokenize(text)) > 512  # it may be counted all the same


def test_runs_that_take_quadratic_time_have_a_bound(tmp_path: Path) -> None:
    for pre, unit in (("deepseek-llm", " "), ("superbpe", "1")):
        with BatchEngine(tiny.write(tiny.bpe(pre), tmp_path / f"{pre}.gguf"), CONFIG) as engine:
            assert engine.tokenize(unit * 512)
            with pytest.raises(InvalidRequestError, match="at most 512 blanks or digits"):
                engine.tokenize("a" + unit * 513)


def test_words_have_a_bound_and_texts_have_none(tmp_path: Path) -> None:
    with BatchEngine(tiny.write(tiny.bpe("tekken"), tmp_path / "m.gguf"), CONFIG) as engine:
        assert len(engine.tokenize("ab " * (1 << 20))) > 1 << 20
        with pytest.raises(InvalidRequestError, match=r"a word, .* at most 1048576 bytes"):
            engine.tokenize("a" * (1 << 20) + "b")


def test_the_number_of_texts_between_special_tokens_has_a_bound(tmp_path: Path) -> None:
    with BatchEngine(tiny.write(tiny.bpe(), tmp_path / "m.gguf"), CONFIG) as engine:
        assert engine.tokenize("".join(f"<|a|>{i}" for i in range(10_000)))
        with pytest.raises(InvalidRequestError, match="at most 16384 different texts"):
            engine.tokenize("".join(f"<|a|>{i}" for i in range(20_000)))


def test_a_begin_token_that_is_missing_is_an_error_of_the_model(tmp_path: Path) -> None:
    vocab = tiny.ugm()
    vocab.tokens[vocab.tokens.index("<s>")] = "<t>"
    with pytest.raises(ModelLoadError, match="adds the begin token but does not define it"):
        BatchEngine(tiny.write(vocab, tmp_path / "m.gguf"), CONFIG)
