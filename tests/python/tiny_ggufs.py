"""Tiny models that mutants are made of: kinds of memory, kinds of tokenizers, an embedder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny_models
from gguf import GGUFWriter
from gguf_bytes import ARRAY, STRING, Gguf, Pair, parse

_N = tiny_models.N_VOCAB
CHATML = (
    b"{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content +"
    b" '<|im_end|>\\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}"
    b"{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def bases(folder: Path) -> dict[str, Gguf]:
    """The models by name; files are written to the folder on the way."""
    made = {}
    for kind in ("plain", "sliding_window", "recurrent", "hybrid"):
        path = tiny_models.write(kind, folder / f"{kind}.gguf")
        made[kind] = parse(path.read_bytes())
    made["experts"] = parse(_write_experts(folder / "experts.gguf").read_bytes())
    embedder = parse(_write_embedder(folder / "embedder.gguf").read_bytes())
    _put_tokenizer(embedder, "bert", _wpm())
    made["embedder"] = embedder
    for name, tokens in _TOKENIZERS.items():
        model = parse((folder / "plain.gguf").read_bytes())
        _put_tokenizer(model, name, tokens())
        model.pairs.append(Pair(b"tokenizer.chat_template", STRING, CHATML))
        made[name] = model
    return made


def _set(model: Gguf, key: str, value: bytes) -> None:
    model.pairs = [pair for pair in model.pairs if pair.key != key.encode()]
    model.pairs.append(Pair(key.encode(), STRING, value))


def _set_array(model: Gguf, key: str, element: int, values: list[object]) -> None:
    model.pairs = [pair for pair in model.pairs if pair.key != key.encode()]
    model.pairs.append(Pair(key.encode(), ARRAY, values, element))


def _put_tokenizer(model: Gguf, name: str, tokens: list[bytes]) -> None:
    tokens = (tokens + [b"fill_%d" % i for i in range(_N)])[:_N]
    types = [6 if text.startswith(b"<0x") else 1 for text in tokens]
    types[:3] = [2, 3, 3]
    _set(model, "tokenizer.ggml.model", name.encode())
    _set_array(model, "tokenizer.ggml.tokens", STRING, list(tokens))
    _set_array(model, "tokenizer.ggml.scores", 6, [-float(i) for i in range(_N)])
    _set_array(model, "tokenizer.ggml.token_type", 5, list(types))
    for i, special in enumerate(("unknown", "bos", "eos")):
        model.pairs.append(Pair(f"tokenizer.ggml.{special}_token_id".encode(), 4, i))
    if name == "gpt2":
        _set(model, "tokenizer.ggml.pre", b"smollm")
        merges: list[object] = [b"h e", b"l l", b"he ll", b"hell o", b"\xc4\xa0 w"]
        _set_array(model, "tokenizer.ggml.merges", STRING, merges)
    if name == "t5":
        _set_array(model, "tokenizer.ggml.precompiled_charsmap", 0, list(_CHARSMAP))


# An array of 300 entries, of which none is a child of the root, and one replacement.
_CHARSMAP = (1200).to_bytes(4, "little") + b"\xff\x03\x00\x00" * 300 + b"a\0"


def _spm() -> list[bytes]:
    special = [b"<unk>", b"<s>", b"</s>"]
    letters = [bytes([i]) for i in range(33, 123)]
    return [*special, *(b"<0x%02X>" % i for i in range(32)), "▁".encode(), *letters]


def _bpe() -> list[bytes]:
    special = [b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>"]
    letters = [bytes([i]) for i in range(33, 127)]
    return [*special, *letters, "Ċ".encode(), "Ġ".encode(), b"he", b"ll", b"hell", b"hello"]


def _wpm() -> list[bytes]:
    special = [b"[UNK]", b"[CLS]", b"[SEP]", b"[PAD]", b"[MASK]"]
    whole = ["▁".encode() + bytes([i]) for i in range(97, 123)]
    return [*special, *whole, *(bytes([i]) for i in range(97, 123)), "▁hello".encode()]


def _ugm() -> list[bytes]:
    special = [b"<unk>", b"<s>", b"</s>", "▁".encode()]
    return special + [bytes([i]) for i in range(33, 123)]


def _rwkv() -> list[bytes]:
    special = [b"<a>", b"<b>", b"<c>"]
    return special + [b"\\n", b"\\x20"] + [bytes([i]) for i in range(33, 127) if i != 92]


_TOKENIZERS: dict[str, Callable[[], list[bytes]]] = {
    "llama": _spm,
    "gpt2": _bpe,
    "bert": _wpm,
    "t5": _ugm,
    "rwkv": _rwkv,
}

_WIDTH = 64
_N_HEADS = 2
_N_CTX = 64


def _write_experts(path: Path) -> Path:
    """A llama of two layers with four experts each, of which a token uses two."""
    writer = GGUFWriter(path, "llama")
    _add_shape(writer)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    rng = np.random.default_rng(3)
    _add(writer, rng, "token_embd.weight", _N, _WIDTH)
    _add(writer, rng, "output_norm.weight", _WIDTH)
    for layer in range(2):
        prefix = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            _add(writer, rng, f"{prefix}{name}.weight", _WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            _add(writer, rng, f"{prefix}{name}.weight", _WIDTH, _WIDTH)
        _add(writer, rng, prefix + "ffn_gate_inp.weight", 4, _WIDTH)
        for name in ("ffn_gate", "ffn_up", "ffn_down"):
            _add(writer, rng, f"{prefix}{name}_exps.weight", 4, _WIDTH, _WIDTH)
    return _finish(writer, path)


def _write_embedder(path: Path) -> Path:
    """A bert of two layers, pooled by the mean."""
    writer = GGUFWriter(path, "bert")
    _add_shape(writer)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_uint32("bert.pooling_type", 1)
    writer.add_token_type_count(2)
    rng = np.random.default_rng(5)
    _add(writer, rng, "token_embd.weight", _N, _WIDTH)
    _add(writer, rng, "position_embd.weight", _N_CTX, _WIDTH)
    _add(writer, rng, "token_types.weight", 2, _WIDTH)
    norms = ["token_embd_norm"]
    for layer in range(2):
        prefix = f"blk.{layer}."
        norms += [prefix + "attn_output_norm", prefix + "layer_output_norm"]
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            _add(writer, rng, f"{prefix}{name}.weight", _WIDTH, _WIDTH)
            _add(writer, rng, f"{prefix}{name}.bias", _WIDTH)
    for name in norms:
        _add(writer, rng, name + ".weight", _WIDTH)
        _add(writer, rng, name + ".bias", _WIDTH)
    return _finish(writer, path)


def _add_shape(writer: GGUFWriter) -> None:
    writer.add_context_length(_N_CTX)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(_N_HEADS)
    writer.add_head_count_kv(_N_HEADS)
    writer.add_tokenizer_model("test")
    writer.add_token_list([f"tok_{i}" for i in range(_N)])
    writer.add_token_scores([0.0] * _N)
    writer.add_token_types([1] * _N)


def _add(writer: GGUFWriter, rng: np.random.Generator, name: str, *shape: int) -> None:
    values = rng.standard_normal(shape) / np.sqrt(shape[-1]) + (len(shape) == 1)
    writer.add_tensor(name, values.astype(np.float32))


def _finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
