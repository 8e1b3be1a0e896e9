"""Models of a few kilobytes, one for each kind of tokenizer: only the tokenizer is of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

_N_EMBD = 32
_N_FF = 32
_N_HEAD = 1

# Special names that are prefixes, suffixes and parts of each other, and of equal length.
CONTROL = (
    "<s>",
    "</s>",
    "<|endoftext|>",
    "<|a|>",
    "<|a|><|b|>",
    "<|b|>",
    "<|",
    "|>",
    "a|>b",
    "b<|a",
    "<<",
    "< <",
)
# Qwen's names of the tokens to fill in the middle, which llama.cpp knows.
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
FIM_REPOSITORY = ("<|repo_name|>", "<|file_sep|>")
USER_DEFINED = ("<u>", "<u><u>", "\n\n", "\n\n\n", "\t\t", "u><", "é<", "日本")


@dataclass
class Vocab:
    """What a tokenizer's metadata hold."""

    model: str
    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    merges: list[str] | None = None
    pre: str | None = None
    add_bos: bool = True
    add_eos: bool = False
    # llama.cpp gives the special tokens of models of some names the attributes LSTRIP and RSTRIP.
    name: str = "tiny"
    n_unused: int = 0

    def add(self, text: str, kind: TokenType = TokenType.NORMAL, score: float = 0.0) -> None:
        self.tokens.append(text)
        self.scores.append(score)
        self.types.append(int(kind))

    def add_specials(self, unknown: str = "<unk>") -> None:
        self.add(unknown, TokenType.UNKNOWN)
        for text in CONTROL:
            self.add(text, TokenType.CONTROL)
        for text in USER_DEFINED:
            self.add(text, TokenType.USER_DEFINED)


def _bytes_to_unicode() -> dict[int, str]:
    """GPT-2's table: a printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain}
    table |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return table


def bpe(pre: str = "gpt-2", name: str = "tiny", add_bos: bool = True) -> Vocab:
    vocab = Vocab("gpt2", pre=pre, merges=[], name=name, add_bos=add_bos)
    vocab.add_specials()
    table = _bytes_to_unicode()
    for byte in range(256):
        vocab.add(table[byte])
    assert vocab.merges is not None
    space = table[32]
    for left, right in [("a", "b"), ("b", "a"), ("ab", "a"), ("a", "a"), ("aa", "aa"),
                        (space, "a"), (space, space), (space * 2, space * 2), ("1", "2"),
                        (table[10], table[10])]:  # fmt: skip
        vocab.merges.append(f"{left} {right}")
        vocab.add(left + right)
    return vocab


def code(*names: str, add_bos: bool = True) -> Vocab:
    """BPE with tokens to fill in the middle."""
    vocab = bpe(add_bos=add_bos)
    for text in names:
        vocab.add(text, TokenType.CONTROL)
    return vocab


def spm(name: str = "tiny") -> Vocab:
    vocab = Vocab("llama", name=name)
    vocab.add_specials()
    for byte in range(256):
        vocab.add(f"<0x{byte:02X}>", TokenType.BYTE)
    for i, text in enumerate(
        ["▁", "a", "b", "ab", "ba", "▁a", "aa", "aaaa", "▁▁", "1", "12", "日"]
    ):
        vocab.add(text, score=-float(i))
    return vocab


def wpm() -> Vocab:
    vocab = Vocab("bert")
    vocab.add("[PAD]", TokenType.CONTROL)
    vocab.add("[UNK]", TokenType.UNKNOWN)
    vocab.add("[CLS]", TokenType.CONTROL)
    vocab.add("[SEP]", TokenType.CONTROL)
    vocab.add("[MASK]", TokenType.CONTROL)
    for text in CONTROL:
        vocab.add(text, TokenType.CONTROL)
    for text in ["▁a", "a", "b", "▁b", "▁ab", "ab", "1", "▁1", "▁日", "▁.", "▁<", "▁|", "▁>"]:
        vocab.add(text)
    return vocab


def ugm() -> Vocab:
    vocab = Vocab("t5")
    vocab.add_specials()
    for i, text in enumerate(["▁", "a", "b", "ab", "▁a", "aa", "▁ab", "1", "日", "<", "|", ">"]):
        vocab.add(text, score=-1.0 - i)
    return vocab


def rwkv() -> Vocab:
    vocab = Vocab("rwkv", add_bos=False)
    vocab.add("<s>", TokenType.CONTROL)
    vocab.add("<|a|>", TokenType.CONTROL)
    vocab.add("<u>", TokenType.USER_DEFINED)
    for byte in range(256):
        vocab.add(f"\\x{byte:02x}")
    for text in ["ab", "aa", "aaaa", "  ", "日"]:
        vocab.add(text)
    return vocab


def write(vocab: Vocab, path: Path) -> Path:
    """A llama of one layer with random weights and this vocabulary."""
    writer = GGUFWriter(path, "llama")
    writer.add_name(vocab.name)
    writer.add_context_length(512)
    writer.add_embedding_length(_N_EMBD)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_N_FF)
    writer.add_head_count(_N_HEAD)
    writer.add_head_count_kv(_N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    n_vocab = len(vocab.tokens)
    writer.add_vocab_size(n_vocab)
    writer.add_tokenizer_model(vocab.model)
    if vocab.pre is not None:
        writer.add_tokenizer_pre(vocab.pre)
    writer.add_token_list(vocab.tokens)
    writer.add_token_scores(vocab.scores)
    writer.add_token_types(vocab.types)
    if vocab.merges is not None:
        writer.add_token_merges(vocab.merges)
    _add_ids(writer, vocab.tokens)
    writer.add_add_bos_token(vocab.add_bos)
    writer.add_add_eos_token(vocab.add_eos)
    rng = np.random.default_rng(7)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32) / 4)

    add("token_embd.weight", n_vocab, _N_EMBD)
    add("output_norm.weight", _N_EMBD)
    add("blk.0.attn_norm.weight", _N_EMBD)
    add("blk.0.ffn_norm.weight", _N_EMBD)
    for kind in ("q", "k", "v", "output"):
        add(f"blk.0.attn_{kind}.weight", _N_EMBD, _N_EMBD)
    add("blk.0.ffn_gate.weight", _N_FF, _N_EMBD)
    add("blk.0.ffn_up.weight", _N_FF, _N_EMBD)
    add("blk.0.ffn_down.weight", _N_EMBD, _N_FF)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_ids(writer: GGUFWriter, tokens: Sequence[str]) -> None:
    for text, add in (
        ("<s>", writer.add_bos_token_id),
        ("</s>", writer.add_eos_token_id),
        ("<unk>", writer.add_unk_token_id),
        ("[UNK]", writer.add_unk_token_id),
        ("[SEP]", writer.add_sep_token_id),
        ("[CLS]", writer.add_bos_token_id),
    ):
        if text in tokens:
            add(tokens.index(text))
