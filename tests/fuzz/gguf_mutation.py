"""Makes mutants of GGUF files: changes of their keys, values, tensors and bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy

from gguf_bytes import ARRAY, STRING, Gguf, Pair, serialize
from tiny_ggufs import CHATML

_EXTREME: list[float | int] = [
    0, 1, 2, 3, -1, 127, 255, 512, 513, 4096, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1,
    float("nan"), float("inf"), -float("inf"), 1e-45, -1.0, 0.5, 3.4e38,
]  # fmt: skip
_WORDS = [
    b"", b"\xff\xfe\x80", b"a" * 100_000, b"\0", b"none", b"no_vocab", b"llama", b"gpt2", b"bert",
    b"t5", b"rwkv", b"plamo2", b"test", b"<0x0A>", b"<0x", b"</s>", b"<|im_end|>", b" ", b"yarn",
    b"longrope", b"qwen2", b"deepseek-v3", b"phi-3", CHATML, b"{{ messages }}", b"{%",
    b"{{ 1 % 0 }}",
    b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    b"{% for i in range(10000000000) %}x{% endfor %}",
    b"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | tojson }}",
    b"{{ " + b"(" * 30_000 + b"1" + b")" * 30_000 + b" }}",
]  # fmt: skip
_ARCHITECTURES = [
    b"llama", b"gemma", b"gemma2", b"gemma3", b"qwen2", b"qwen3", b"qwen3moe", b"phi2", b"phi3",
    b"mamba", b"mamba2", b"lfm2", b"bert", b"falcon", b"gpt2", b"gptneox", b"olmo2", b"jamba",
    b"rwkv6", b"rwkv7", b"granite", b"llama4", b"deepseek2", b"starcoder2", b"stablelm", b"clip",
    b"t5", b"mistral3", b"smollm3", b"exaone4", b"plamo2", b"nomic-bert", b"gpt-oss", b"nothing",
]  # fmt: skip


def mutant(base: Gguf, rng: random.Random) -> bytes:
    """A file near the base; most mutants differ in one place."""
    gguf = deepcopy(base)
    n = rng.choice([0, 1, 1, 1, 1, 2, 3])
    for _ in range(n):
        rng.choices(*_CHANGES)[0](gguf, rng)
    raw = bytearray(serialize(gguf))
    if n == 0 or rng.random() < 0.1:
        _change_bytes(raw, len(raw) - len(gguf.data), rng)
    return bytes(raw)


def _change_bytes(raw: bytearray, n_header: int, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 8])):
        end = n_header if rng.random() < 0.9 else len(raw)
        at = rng.randrange(min(end, len(raw)))
        raw[at] = rng.choice([raw[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255])
    if rng.random() < 0.1:
        del raw[rng.randrange(len(raw)) :]


def _scalar_pairs(gguf: Gguf) -> list[Pair]:
    return [pair for pair in gguf.pairs if pair.kind not in (ARRAY, STRING)]


def _number(gguf: Gguf, rng: random.Random) -> None:
    pair = rng.choice(_scalar_pairs(gguf))
    value = pair.value if isinstance(pair.value, (int, float)) else 0
    near = [value + 1, value - 1, value * 2, value / 2 if isinstance(value, float) else value // 2]
    pair.value = rng.choice(_EXTREME + near)


def _kind(gguf: Gguf, rng: random.Random) -> None:
    pair = rng.choice(gguf.pairs)
    if pair.kind == ARRAY and rng.random() < 0.7:
        pair.element = rng.randrange(14)
        pair.element = 4 if pair.element == ARRAY else pair.element
    elif rng.random() < 0.5 and not isinstance(pair.value, list):
        pair.kind, pair.element = ARRAY, pair.kind
        pair.value = [pair.value] * rng.choice([0, 1, 2, 3, 512, 513])
    else:
        pair.kind = rng.choice([kind for kind in range(14) if kind != ARRAY])


def _array(gguf: Gguf, rng: random.Random) -> None:
    arrays = [pair for pair in gguf.pairs if isinstance(pair.value, list) and pair.value]
    if not arrays:
        return
    pair = rng.choice(arrays)
    at = rng.randrange(len(pair.value))
    how = rng.randrange(6)
    if how == 0:
        del pair.value[at:]
    elif how == 1:
        pair.value += pair.value[at:]
    elif how == 2:
        pair.value[at] = rng.choice(pair.value)
    elif how == 3:
        pair.value = pair.value * rng.choice([2, 10])
    else:
        pair.value[at] = rng.choice(_WORDS if pair.element == STRING else _EXTREME)


def _string(gguf: Gguf, rng: random.Random) -> None:
    texts = [pair for pair in gguf.pairs if pair.kind == STRING]
    pair = rng.choice(texts or gguf.pairs)
    if rng.random() < 0.5:
        pair.value = rng.choice(_WORDS)
    else:
        changed = bytearray(pair.value if isinstance(pair.value, bytes) and pair.value else b"x")
        for _ in range(rng.choice([1, 3])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        pair.value = bytes(changed)


def _pairs(gguf: Gguf, rng: random.Random) -> None:
    at = rng.randrange(len(gguf.pairs))
    how = rng.randrange(4)
    if how == 0:
        del gguf.pairs[at]
    elif how == 1:
        gguf.pairs.append(deepcopy(gguf.pairs[at]))
    elif how == 2:
        other = rng.choice(gguf.pairs)
        gguf.pairs[at].key, other.key = other.key, gguf.pairs[at].key
    else:
        gguf.pairs[at].key = rng.choice([b"", b"\xff", gguf.pairs[at].key + b"x", b"general.name"])


def _new_pair(gguf: Gguf, rng: random.Random) -> None:
    """A key that llama.cpp knows and the file has not."""
    prefix = _architecture_of(gguf)
    key = rng.choice(_KEYS)
    full = key if key.startswith((b"tokenizer", b"general", b"split")) else prefix + b"." + key
    kind = rng.choice([4, 4, 5, 6, 7, STRING])
    value = rng.choice(_WORDS if kind == STRING else _EXTREME)
    gguf.pairs = [pair for pair in gguf.pairs if pair.key != full]
    gguf.pairs.append(Pair(full, kind, value))


def _tensor(gguf: Gguf, rng: random.Random) -> None:
    if not gguf.tensors:
        return
    at = rng.randrange(len(gguf.tensors))
    tensor, other = gguf.tensors[at], rng.choice(gguf.tensors)
    how = rng.randrange(9)
    if how <= 1:
        tensor.kind = rng.randrange(45)
    elif how == 2:
        tensor.kind, other.kind = rng.choice([24, 25, 26, 27, 28]), rng.choice([0, 1, 8, 26])
    elif how == 3 and tensor.dims:
        i = rng.randrange(len(tensor.dims))
        tensor.dims[i] = rng.choice([0, 1, tensor.dims[i] + 1, tensor.dims[i] // 2, 2**31, 2**62])
    elif how == 4:
        tensor.dims = rng.choice(
            [tensor.dims[::-1], [], [*tensor.dims, 1], [*tensor.dims, 1, 1, 1]]
        )
    elif how == 5:
        tensor.offset = rng.choice([0, 1, tensor.offset + 32, other.offset, 2**40, 2**64 - 32])
    elif how == 6:
        tensor.name, other.name = other.name, tensor.name
    elif how == 7:
        tensor.name = rng.choice([b"", b"x" * 80, b"\xff", other.name, b"blk.99.attn_q.weight"])
    else:
        del gguf.tensors[at]


def _all_tensors(gguf: Gguf, rng: random.Random) -> None:
    """Every matrix of one type, with offsets and data that fit it."""
    kind, n_block, n_bytes = rng.choice(_TYPES)
    matrices_only = rng.random() < 0.7
    offset, data = 0, []
    for tensor in gguf.tensors:
        n = 1
        for dim in tensor.dims:
            n *= dim
        size = 4 * min(n, 1 << 20)
        if (
            tensor.dims
            and (len(tensor.dims) > 1 or not matrices_only)
            and tensor.dims[0] % n_block == 0
            and n
        ):
            tensor.kind, size = kind, min(n, 1 << 20) // n_block * n_bytes
        tensor.offset = offset
        size += -size % 32
        offset += size
        data.append(rng.randbytes(size) if rng.random() < 0.3 else bytes(size))
    gguf.data = b"".join(data)


# Type, numbers and bytes of a block.
_TYPES = [
    (1, 1, 2), (2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34), (9, 32, 36),
    (20, 32, 18), (24, 1, 1), (25, 1, 2), (26, 1, 4), (27, 1, 8), (28, 1, 8), (30, 1, 2),
    (39, 32, 17),
]  # fmt: skip


def _architecture(gguf: Gguf, rng: random.Random) -> None:
    """Another architecture's name, on all keys."""
    old, new = _architecture_of(gguf), rng.choice(_ARCHITECTURES)
    for pair in gguf.pairs:
        if pair.key == b"general.architecture":
            pair.value = new
        elif pair.key.startswith(old + b"."):
            pair.key = new + pair.key[len(old) :]


def _architecture_of(gguf: Gguf) -> bytes:
    pairs = [pair for pair in gguf.pairs if pair.key == b"general.architecture"]
    return pairs[0].value if pairs and isinstance(pairs[0].value, bytes) else b"llama"


def _whole(gguf: Gguf, rng: random.Random) -> None:
    how = rng.randrange(5)
    if how == 0:
        gguf.n_pairs_off = rng.choice([-1, 1, 1000, 2**40, -(2**10)])
    elif how == 1:
        gguf.n_tensors_off = rng.choice([-1, 1, 1000, 2**40, -(2**10)])
    elif how == 2:
        gguf.version = rng.choice([0, 1, 2, 4, 0x03000000, 2**32 - 1])
    elif how == 3:
        gguf.data = gguf.data[: rng.randrange(len(gguf.data) + 1)]
    else:
        alignment = rng.choice([0, 1, 2, 4, 8, 16, 33, 64, 2**20, 2**31])
        gguf.pairs.append(Pair(b"general.alignment", 4, alignment))


def _weights(gguf: Gguf, rng: random.Random) -> None:
    changed = bytearray(gguf.data)
    value = rng.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\xff\xff"])
    if not changed:
        return
    for _ in range(rng.choice([1, 16, 256])):
        at = rng.randrange(len(changed)) // 4 * 4
        changed[at : at + 4] = value[: len(changed) - at]
    gguf.data = bytes(changed)


_Change = Callable[[Gguf, random.Random], None]
_CHANGES: tuple[list[_Change], list[int]] = (
    [_number, _kind, _array, _string, _pairs, _new_pair, _tensor, _all_tensors, _architecture,
     _whole, _weights],
    [20, 8, 14, 8, 6, 14, 12, 8, 5, 4, 2],
)  # fmt: skip
_KEYS = [
    b"attention.key_length", b"attention.value_length", b"attention.head_count_kv",
    b"attention.sliding_window", b"attention.sliding_window_pattern", b"attention.causal",
    b"attention.max_alibi_bias", b"attention.clamp_kqv", b"attention.scale", b"expert_count",
    b"attention.layer_norm_epsilon", b"attention.group_norm_epsilon", b"expert_used_count",
    b"attention.key_length_swa", b"attention.shared_kv_layers", b"attention.temperature_length",
    b"expert_group_count", b"expert_group_used_count", b"expert_gating_func",
    b"expert_weights_scale", b"expert_feed_forward_length", b"expert_shared_count",
    b"rope.dimension_count", b"rope.dimension_sections", b"rope.scaling.type", b"rope.freq_base",
    b"rope.scaling.factor", b"rope.scaling.original_context_length", b"rope.freq_base_swa",
    b"rope.scaling.yarn_ext_factor", b"rope.scaling.yarn_beta_fast", b"nextn_predict_layers",
    b"ssm.conv_kernel", b"ssm.inner_size", b"ssm.state_size", b"ssm.group_count",
    b"ssm.time_step_rank", b"wkv.head_size", b"token_shift_count", b"pooling_type",
    b"classifier.output_labels", b"n_deepstack_layers", b"deepstack_mapping", b"vocab_size",
    b"leading_dense_block_count", b"interleave_moe_layer_step", b"logit_scale",
    b"final_logit_softcapping", b"attn_logit_softcapping", b"embedding_length_out",
    b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.eot_token_id",
    b"tokenizer.ggml.unknown_token_id", b"tokenizer.ggml.padding_token_id", b"tokenizer.ggml.pre",
    b"tokenizer.ggml.add_bos_token", b"tokenizer.ggml.add_eos_token",
    b"tokenizer.ggml.add_sep_token",
    b"tokenizer.ggml.add_space_prefix", b"tokenizer.ggml.remove_extra_whitespaces",
    b"tokenizer.ggml.token_type_count", b"tokenizer.ggml.suppress_tokens",
    b"tokenizer.ggml.precompiled_charsmap", b"tokenizer.chat_template", b"general.name",
    b"general.file_type", b"split.count", b"split.no", b"split.tensors.count",
]  # fmt: skip
