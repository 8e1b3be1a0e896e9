"""A model file that is damaged or made to do harm is refused, and ends no process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from gguf_bytes import ARRAY, STRING, Gguf, Pair, serialize
from llamaherd import (
    BatchEngine,
    Embedder,
    EngineConfig,
    InvalidRequestError,
    ModelLoadError,
)
from llamaherd import _core as core
from tiny_ggufs import bases

pytestmark = pytest.mark.slow

FUZZER = Path(__file__).resolve().parents[1] / "fuzz" / "gguf_mutants.py"
WAIT_S = 600
CONFIG = EngineConfig(n_ctx=64, max_seqs=1, n_threads=1, warmup=False)
UINT32, FLOAT32 = 4, 6
F16, Q8_1, I32, F64 = 1, 9, 26, 28

LOAD = """
import sys
from llamaherd import BatchEngine, EngineConfig, ModelLoadError
try:
    BatchEngine(sys.argv[1], EngineConfig(n_ctx=64, max_seqs=1, n_threads=1, warmup=False))
except ModelLoadError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gguf]:
    return bases(tmp_path_factory.mktemp("tiny"))


Change = Callable[[Gguf], None]


def put(key: str, value: Any, kind: int = UINT32, element: int = UINT32) -> Change:
    """Sets a key, whatever it was."""

    def change(gguf: Gguf) -> None:
        gguf.pairs = [pair for pair in gguf.pairs if pair.key != key.encode()]
        gguf.pairs.append(Pair(key.encode(), kind, value, element))

    return change


def element(key: str, index: int, value: Any) -> Change:
    """Replaces one element of an array."""

    def change(gguf: Gguf) -> None:
        next(pair for pair in gguf.pairs if pair.key == key.encode()).value[index] = value

    return change


def tensor_type(name: str, kind: int) -> Change:
    def change(gguf: Gguf) -> None:
        next(tensor for tensor in gguf.tensors if tensor.name == name.encode()).kind = kind
        gguf.tail = bytes(1 << 17)
        offset = 0
        for tensor in gguf.tensors:
            tensor.offset = offset
            size = {F16: 2, F64: 8}.get(tensor.kind, 4)
            for dim in tensor.dims:
                size *= dim
            if tensor.kind == Q8_1:
                size = size // 4 // 32 * 36
            offset += size + -size % 32

    return change


def template(text: str) -> Change:
    return put("tokenizer.chat_template", text.encode(), STRING)


BAD: dict[str, tuple[str, Change, str]] = {
    "a matrix of integers": ("plain", tensor_type("output.weight", I32), "cannot multiply"),
    "a matrix of doubles": ("plain", tensor_type("blk.0.attn_q.weight", F64), "cannot multiply"),
    "a matrix of sums": ("plain", tensor_type("token_embd.weight", Q8_1), "cannot multiply"),
    "a norm of halves": (
        "plain",
        tensor_type("blk.0.attn_norm.weight", F16),
        "must be of type f32",
    ),
    "a bias of halves": ("embedder", tensor_type("blk.0.attn_q.bias", F16), "must be of type f32"),
    "a state of halves": ("recurrent", tensor_type("blk.0.ssm_a", F16), "must be of type f32"),
    "no blocks": ("plain", put("llama.block_count", 0), r"block_count must be in \[1, 512\]"),
    "513 blocks": ("plain", put("llama.block_count", 513), r"it is 513"),
    "2^31 blocks": ("plain", put("llama.block_count", 2**31), r"it is 2147483648"),
    "no context": ("plain", put("llama.context_length", 0), "context_length must be in"),
    "epsilon NaN": (
        "plain",
        put("llama.attention.layer_norm_rms_epsilon", float("nan"), FLOAT32),
        "epsilon must be finite",
    ),
    "epsilon 0": (
        "plain",
        put("llama.attention.layer_norm_rms_epsilon", 0.0, FLOAT32),
        "epsilon must be above 0",
    ),
    "infinite frequencies": (
        "plain",
        put("llama.rope.freq_base", float("inf"), FLOAT32),
        "freq_base must be finite",
    ),
    "no heads": ("plain", put("llama.attention.head_count", 0), "head_count must be at least 1"),
    "3 KV heads for 2": (
        "plain",
        put("llama.attention.head_count_kv", 3),
        "multiple of that of KV heads|wrong shape",
    ),
    "an odd rotation": ("sliding_window", put("gemma3.rope.dimension_count", 31), "must be even"),
    "a state of no size": ("recurrent", put("mamba.ssm.time_step_rank", 0), "time_step_rank"),
    "more experts used than there are": (
        "experts",
        put("llama.expert_used_count", 5),
        "n_expert_used",
    ),
    "an unknown architecture": (
        "plain",
        put("general.architecture", b"\xff\xfe", STRING),
        r"unknown model architecture: '\\xff\\xfe'",
    ),
    "two equal tokens": (
        "gpt2",
        element("tokenizer.ggml.tokens", 7, b"hello"),
        "duplicates another token: 'hello'",
    ),
    "no tokens": ("gpt2", put("tokenizer.ggml.tokens", [], ARRAY, STRING), "1 to 2.22 tokens"),
    "a token of a megabyte": (
        "t5",
        element("tokenizer.ggml.tokens", 7, b"a" * 2**20),
        "at most 4096 bytes",
    ),
    "a byte that is none": (
        "llama",
        element("tokenizer.ggml.tokens", 5, b"<0x"),
        "must be written <0xHH>",
    ),
    "a byte token of bert": (
        "bert",
        element("tokenizer.ggml.token_type", 5, 6),
        "no tokens of type byte",
    ),
    "a byte that begins tokens and is none": (
        "rwkv",
        element("tokenizer.ggml.tokens", 5, b"!!"),
        "byte .* has none",
    ),
    "scores that are no numbers": (
        "llama",
        element("tokenizer.ggml.scores", 5, float("nan")),
        "score of token 5",
    ),
    "no vocabulary": ("plain", put("tokenizer.ggml.model", b"none", STRING), "no vocabulary"),
    "an alignment of 1": ("plain", put("general.alignment", 1), "alignment"),
    "a template that recurses": (
        "gpt2",
        template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        "recurses without end",
    ),
    "a template that never ends": (
        "gpt2",
        template(
            "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}"
            "{% endfor %}{% endfor %}{% endfor %}"
        ),
        "runs for more than",
    ),
    "a template of 10^10 characters": (
        "gpt2",
        template("{% for i in range(10000000000) %}x{% endfor %}"),
        "takes more than|runs for more than",
    ),
    "a template that divides by 0": ("gpt2", template("{{ 4 is divisibleby 0 }}"), "signal 8"),
    "a template that nests": ("gpt2", template("{{ " + "(" * 30000 + "1" + " }}"), "recurses"),
    "a template whose data recurses": (
        "gpt2",
        template("{% set n = namespace() %}{% set n.x = n %}{{ n | tojson }}"),
        "recurses without end",
    ),
}


def write(tiny: dict[str, Gguf], folder: Path, base: str, *changes: Change) -> Path:
    gguf = deepcopy(tiny[base])
    for change in changes:
        change(gguf)
    path = folder / "model.gguf"
    path.write_bytes(serialize(gguf))
    return path


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_file_is_refused_with_the_reason(
    tiny: dict[str, Gguf], tmp_path: Path, name: str
) -> None:
    base, change, reason = BAD[name]
    path = write(tiny, tmp_path, base, change)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(done.stdout)


@pytest.mark.parametrize("base", ["plain", "sliding_window", "recurrent", "hybrid", "experts"])
def test_the_files_that_mutants_are_made_of_load(
    tiny: dict[str, Gguf], tmp_path: Path, base: str
) -> None:
    with BatchEngine(write(tiny, tmp_path, base), CONFIG, progress=False) as engine:
        assert len(engine.submit([1, 2]).result().token_ids) > 0


@pytest.mark.parametrize("base", ["llama", "gpt2", "bert", "t5", "rwkv"])
def test_texts_are_read_by_every_kind_of_tokenizer(
    tiny: dict[str, Gguf], tmp_path: Path, base: str
) -> None:
    with BatchEngine(write(tiny, tmp_path, base), CONFIG, progress=False) as engine:
        assert engine.tokenize("hello") != []
        prompt = engine.apply_chat_template([{"role": "user", "content": "hello"}]).text
        assert "<|im_start|>user" in prompt


def test_metadata_that_is_no_utf8_is_shown_with_replacements(
    tiny: dict[str, Gguf], tmp_path: Path
) -> None:
    path = write(tiny, tmp_path, "plain", put("general.name", b"a\xffb", STRING))
    with BatchEngine(path, CONFIG, progress=False) as engine:
        assert engine.model_info()["metadata"]["general.name"] == "a�b"


def test_an_error_that_quotes_bytes_that_are_no_utf8_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\xff\xff\xff\xff" + b"\xfe" * 64)
    with pytest.raises(ModelLoadError):
        core.BatchEngine(str(path), CONFIG._to_core(), core.LoadProgress(), False)


def test_a_bad_part_of_a_split_model_is_named(tiny: dict[str, Gguf], tmp_path: Path) -> None:
    gguf = deepcopy(tiny["plain"])
    put("split.count", 2, 2)(gguf)
    put("split.no", 0, 2)(gguf)
    put("split.tensors.count", len(gguf.tensors) + 1, 5)(gguf)
    first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    first.write_bytes(serialize(gguf))
    other = Gguf([Pair(b"split.no", 2, 1), Pair(b"split.count", 2, 2)], [], bytes(1024))
    tensor = deepcopy(gguf.tensors[0])
    tensor.name, tensor.dims, tensor.kind, tensor.offset = b"blk.9.attn_q.weight", [4, 4], I32, 0
    other.tensors = [tensor]
    second.write_bytes(serialize(other))
    with pytest.raises(ModelLoadError, match=r"m-00002-of-00002.*cannot multiply"):
        BatchEngine(first, CONFIG, progress=False)


def test_embedder_and_quantize_refuse_what_engines_refuse(
    tiny: dict[str, Gguf], tmp_path: Path
) -> None:
    path = write(tiny, tmp_path, "embedder", put("bert.block_count", 0))
    with pytest.raises(ModelLoadError, match="block_count"):
        Embedder(path, progress=False)
    with pytest.raises(ModelLoadError, match="block_count"):
        core.quantize(str(path), str(tmp_path / "out.gguf"), "q8_0", 1)
    assert not (tmp_path / "out.gguf").exists()


def test_a_template_that_a_request_sends_astray_refuses_it_alone(
    tiny: dict[str, Gguf], tmp_path: Path
) -> None:
    source = (
        "{% macro f(n) %}{% if n %}{{ f(n) }}{% endif %}{% endmacro %}"
        "{{ f(messages[0].content == 'again') }}{{ messages[0].content }}"
    )
    path = write(tiny, tmp_path, "gpt2", template(source))
    with BatchEngine(path, CONFIG, progress=False) as engine:
        with pytest.raises(InvalidRequestError, match="recurses too deeply"):
            engine.apply_chat_template([{"role": "user", "content": "again"}])
        assert engine.apply_chat_template([{"role": "user", "content": "hello"}]).text == "hello"


def test_a_failed_check_ends_the_process_with_one_line() -> None:
    code = "from llamaherd import _core; _core.fail_assertion()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode < 0
    assert len(done.stderr.splitlines()) == 1
    assert "an assertion of llama.cpp failed" in done.stderr


def test_mutants_load_or_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(FUZZER), "--n", "300", "--seed", "5", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert sum(counts.values()) == 300
    assert counts["loaded"] > 50
    assert counts["ModelLoadError"] > 100
