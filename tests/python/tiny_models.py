"""Models of a few megabytes with random weights: meaningless as text, good for mechanics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

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
