"""Models of a few megabytes with random weights: meaningless as text, good for mechanics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

N_VOCAB = 128
_N_EMBD = 64
_N_FF = 96
_N_HEAD = 2
_HEAD_SIZE = 32
_N_INNER = 128
_N_STATE = 16
WINDOW = 32


def write(kind: str, path: Path, nan_token: int | None = None) -> Path:
    """A model of two layers whose memory is plain, sliding_window, recurrent or hybrid.

    Whatever it computes from nan_token is NaN.
    """
    architecture = {
        "plain": "llama",
        "sliding_window": "gemma3",
        "recurrent": "mamba",
        "hybrid": "lfm2",
    }[kind]
    writer = GGUFWriter(path, architecture)
    _add_common(writer, architecture)
    rng = np.random.default_rng(7)

    def add(name: str, *shape: int, scale: float = 0.4) -> None:
        """A random tensor; vectors are near 1, as norms' weights are."""
        values = rng.standard_normal(shape) * scale / np.sqrt(shape[-1])
        values += len(shape) == 1
        if name == "token_embd.weight" and nan_token is not None:
            values[nan_token] = np.nan
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", N_VOCAB, _N_EMBD, scale=8.0)
    add("output.weight", N_VOCAB, _N_EMBD, scale=8.0)
    final_norm = "token_embd_norm" if kind == "hybrid" else "output_norm"
    add(f"{final_norm}.weight", _N_EMBD)
    for layer in range(2):
        prefix = f"blk.{layer}."
        add(prefix + "attn_norm.weight", _N_EMBD)
        if kind == "recurrent":
            _add_mamba(writer, prefix, add)
            continue
        if kind == "hybrid" and layer == 1:
            add(prefix + "shortconv.in_proj.weight", 3 * _N_EMBD, _N_EMBD, scale=2.0)
            add(prefix + "shortconv.conv.weight", _N_EMBD, 3, scale=2.0)
            add(prefix + "shortconv.out_proj.weight", _N_EMBD, _N_EMBD, scale=2.0)
        else:
            _add_attention(kind, prefix, add)
        add(prefix + "ffn_norm.weight", _N_EMBD)
        add(prefix + "ffn_gate.weight", _N_FF, _N_EMBD, scale=2.0)
        add(prefix + "ffn_up.weight", _N_FF, _N_EMBD, scale=2.0)
        add(prefix + "ffn_down.weight", _N_EMBD, _N_FF, scale=2.0)
        if kind == "sliding_window":
            add(prefix + "post_attention_norm.weight", _N_EMBD)
            add(prefix + "post_ffw_norm.weight", _N_EMBD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_common(writer: GGUFWriter, architecture: str) -> None:
    writer.add_context_length(4096)
    writer.add_embedding_length(_N_EMBD)
    writer.add_block_count(2)
    writer.add_vocab_size(N_VOCAB)
    writer.add_feed_forward_length(0 if architecture == "mamba" else _N_FF)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if architecture == "mamba":
        writer.add_head_count(0)
        writer.add_ssm_conv_kernel(4)
        writer.add_ssm_inner_size(_N_INNER)
        writer.add_ssm_state_size(_N_STATE)
        writer.add_ssm_time_step_rank(4)
    elif architecture == "lfm2":
        writer.add_head_count([_N_HEAD, 0])
        writer.add_head_count_kv([_N_HEAD, 0])
        writer.add_shortconv_l_cache(3)
    else:
        writer.add_head_count(_N_HEAD)
        writer.add_head_count_kv(_N_HEAD)
        writer.add_key_length(_HEAD_SIZE)
        writer.add_value_length(_HEAD_SIZE)
    if architecture == "gemma3":
        writer.add_sliding_window(WINDOW)
        writer.add_array("gemma3.attention.sliding_window_pattern", [1, 0])
    writer.add_tokenizer_model("test")
    writer.add_token_list([f"tok_{i}" for i in range(N_VOCAB)])
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types([1] * N_VOCAB)


def _add_attention(kind: str, prefix: str, add) -> None:  # type: ignore[no-untyped-def]
    n = _N_HEAD * _HEAD_SIZE
    for name in ("q", "k", "v"):
        add(f"{prefix}attn_{name}.weight", n, _N_EMBD, scale=4.0)
    add(prefix + "attn_output.weight", _N_EMBD, n, scale=2.0)
    if kind in {"sliding_window", "hybrid"}:
        add(prefix + "attn_q_norm.weight", _HEAD_SIZE)
        add(prefix + "attn_k_norm.weight", _HEAD_SIZE)


def _add_mamba(writer: GGUFWriter, prefix: str, add) -> None:  # type: ignore[no-untyped-def]
    add(prefix + "ssm_in.weight", 2 * _N_INNER, _N_EMBD, scale=2.0)
    add(prefix + "ssm_conv1d.weight", _N_INNER, 4, scale=2.0)
    add(prefix + "ssm_conv1d.bias", _N_INNER)
    add(prefix + "ssm_x.weight", 4 + 2 * _N_STATE, _N_INNER, scale=2.0)
    add(prefix + "ssm_dt.weight", _N_INNER, 4, scale=2.0)
    add(prefix + "ssm_dt.bias", _N_INNER)
    add(prefix + "ssm_d", _N_INNER)
    add(prefix + "ssm_out.weight", _N_EMBD, _N_INNER, scale=2.0)
    # Negative, or the state would grow without bound.
    decay = -np.tile(np.arange(1, _N_STATE + 1, dtype=np.float32) / _N_STATE, (_N_INNER, 1))
    writer.add_tensor(prefix + "ssm_a", decay)


# Rows that K-quants can hold: multiples of 256.
_WIDE = 1024
_WIDE_FF = 512
_WIDE_HEADS = 16
_WIDE_KV_HEADS = 4
_WIDE_HEAD_SIZE = 64
_N_WIDE_LAYERS = 2


def write_wide(
    path: Path,
    n_experts: int = 0,
    head_size: int = _WIDE_HEAD_SIZE,
    weights: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> Path:
    """A llama of two layers, 1,024 wide; with experts, each token uses two of them."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(_WIDE)
    writer.add_block_count(_N_WIDE_LAYERS)
    writer.add_vocab_size(N_VOCAB)
    writer.add_feed_forward_length(_WIDE_FF)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head_size)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_head_count(_WIDE_HEADS)
    writer.add_head_count_kv(_WIDE_KV_HEADS)
    if n_experts > 0:
        writer.add_expert_count(n_experts)
        writer.add_expert_used_count(2)
    writer.add_tokenizer_model("test")
    writer.add_token_list([f"tok_{i}" for i in range(N_VOCAB)])
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types([1] * N_VOCAB)
    rng = np.random.default_rng(11)

    def add(name: str, *shape: int) -> None:
        values = rng.standard_normal(shape) / np.sqrt(shape[-1])
        if len(shape) == 1:
            writer.add_tensor(name, (values + 1).astype(np.float32))
        else:
            writer.add_tensor(name, quantize(values.astype(np.float32), weights), raw_dtype=weights)

    add("token_embd.weight", N_VOCAB, _WIDE)
    add("output.weight", N_VOCAB, _WIDE)
    add("output_norm.weight", _WIDE)
    experts = (n_experts,) if n_experts > 0 else ()
    suffix = "_exps" if n_experts > 0 else ""
    for layer in range(_N_WIDE_LAYERS):
        prefix = f"blk.{layer}."
        add(prefix + "attn_norm.weight", _WIDE)
        add(prefix + "attn_q.weight", _WIDE_HEADS * head_size, _WIDE)
        add(prefix + "attn_k.weight", _WIDE_KV_HEADS * head_size, _WIDE)
        add(prefix + "attn_v.weight", _WIDE_KV_HEADS * head_size, _WIDE)
        add(prefix + "attn_output.weight", _WIDE, _WIDE_HEADS * head_size)
        add(prefix + "ffn_norm.weight", _WIDE)
        if n_experts > 0:
            add(prefix + "ffn_gate_inp.weight", n_experts, _WIDE)
        add(f"{prefix}ffn_gate{suffix}.weight", *experts, _WIDE_FF, _WIDE)
        add(f"{prefix}ffn_up{suffix}.weight", *experts, _WIDE_FF, _WIDE)
        add(f"{prefix}ffn_down{suffix}.weight", *experts, _WIDE, _WIDE_FF)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def true_logits(path: Path, tokens: list[int]) -> npt.NDArray[np.float64]:
    """What write_wide()'s model without experts computes with the weights in `path`, in float64."""
    weights = {
        tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in GGUFReader(path).tensors
    }
    n = len(tokens)

    def norm(x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * weights[name]

    def rotate(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Neighbouring pairs, by position."""
        frequencies = 10000.0 ** (-np.arange(0, _WIDE_HEAD_SIZE, 2) / _WIDE_HEAD_SIZE)
        angles = np.arange(n)[:, None, None] * frequencies
        even, odd = x[..., ::2], x[..., 1::2]
        turned = np.empty_like(x)
        turned[..., ::2] = even * np.cos(angles) - odd * np.sin(angles)
        turned[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
        return turned

    x = weights["token_embd.weight"][tokens]
    for layer in range(_N_WIDE_LAYERS):
        w = {
            name.removeprefix(f"blk.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"blk.{layer}.")
        }
        h = norm(x, f"blk.{layer}.attn_norm.weight")
        q, k, v = (
            (h @ w[f"attn_{name}.weight"].T).reshape(n, -1, _WIDE_HEAD_SIZE) for name in "qkv"
        )
        q, k = rotate(q), rotate(k)
        group = _WIDE_HEADS // _WIDE_KV_HEADS
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(_WIDE_HEAD_SIZE)
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        attended = np.einsum("hij,jhd->ihd", shares, v).reshape(n, -1)
        x = x + attended @ w["attn_output.weight"].T
        h = norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = h @ w["ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up.weight"].T)) @ w["ffn_down.weight"].T
    logits: npt.NDArray[np.float64] = norm(x, "output_norm.weight") @ weights["output.weight"].T
    return logits
