"""What /v1/models tells of models, loaded or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny_ggufs
import tiny_models
import tiny_tokenizers
from gguf import GGMLQuantizationType
from llamaherd import BatchEngine, EngineConfig, ModelLoadError
from llamaherd.models import find_present, summarize
from serving import Served, serve


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "first": tiny_models.write("plain", folder / "first.gguf"),
        "wide": tiny_models.write_wide(folder / "w.gguf", weights=GGMLQuantizationType.Q8_0),
        "embedder": tiny_ggufs._write_embedder(folder / "e.gguf"),
        "damaged": folder / "damaged.gguf",
    }


@pytest.fixture(scope="module")
def served(paths: dict[str, Path]) -> Iterator[Served]:
    paths["damaged"].write_bytes(b"GGUF" + bytes(100))
    models = [f"{name}={path}" for name, path in paths.items()]
    options = ("--n-ctx", "512", "--pooling", "wide=last")
    with serve(*models, "hub=hf:no-such/repo/file.gguf", options=options) as served:
        yield served


def listed(served: Served) -> dict[str, dict[str, Any]]:
    data = httpx.get(f"{served.url}/v1/models").json()["data"]
    return {model["id"]: model for model in data}


def test_models_are_described_before_they_are_loaded(
    served: Served, paths: dict[str, Path]
) -> None:
    models = listed(served)
    assert list(models) == ["first", "wide", "embedder", "damaged", "hub"]
    first = models["first"]
    assert first["loaded"] is True
    assert first["max_model_len"] == 512
    with BatchEngine(paths["first"], EngineConfig(n_ctx=64, warmup=False)) as engine:
        info = engine.model_info()
    assert first["meta"] == {
        "n_vocab": info["n_vocab"],
        "n_ctx_train": info["n_ctx_train"],
        "n_embd": info["n_embd"],
        "n_params": info["n_params"],
        "size": info["n_bytes"],
        "ftype": "f32",
        "architecture": "llama",
    }
    assert first["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
    wide = models["wide"]
    assert wide["loaded"] is False
    assert wide["max_model_len"] is None
    assert wide["meta"]["ftype"] == "q8_0"
    assert wide["meta"]["n_embd"] == 1024
    assert wide["architecture"]["output_modalities"] == ["text", "embeddings"]
    assert models["embedder"]["architecture"]["output_modalities"] == ["embeddings"]
    for name in ("damaged", "hub"):
        assert models[name]["meta"] is None
        assert models[name]["architecture"]["output_modalities"] is None
    one = httpx.get(f"{served.url}/v1/models/wide").json()
    assert {**one, "created": 0} == {**wide, "created": 0}
    assert httpx.get(f"{served.url}/v1/models/none").status_code == 404


def test_loading_tells_the_context_length(served: Served) -> None:
    ask = {"model": "embedder", "input": [[5, 6, 7]]}
    answer = httpx.post(f"{served.url}/v1/embeddings", json=ask, timeout=60)
    assert answer.status_code == 200, answer.text
    embedder = listed(served)["embedder"]
    assert (embedder["loaded"], embedder["max_model_len"]) == (True, 64)


def test_pooling_of_a_model_that_has_none(served: Served) -> None:
    def vector(model: str, **fields: Any) -> Any:
        ask = {"model": model, "input": [1, 2, 3], **fields}
        return httpx.post(f"{served.url}/v1/embeddings", json=ask, timeout=60).json()

    refused = vector("first")["error"]
    assert "no pooling type" in refused["message"]
    by_request = np.array(vector("first", pooling="mean")["data"][0]["embedding"])
    assert by_request.shape == (64,)
    by_server = vector("wide")["data"][0]["embedding"]
    assert by_server == pytest.approx(vector("wide", pooling="last")["data"][0]["embedding"])
    assert by_server != pytest.approx(vector("wide", pooling="mean")["data"][0]["embedding"])
    for bad in ("rank", "none", "max"):
        assert vector("first", pooling=bad)["error"]["param"] == "pooling"


def test_token_ids_are_checked(served: Served) -> None:
    def refusal(given: Any, **fields: Any) -> str:
        ask = {"model": "embedder", "input": given, **fields}
        answer = httpx.post(f"{served.url}/v1/embeddings", json=ask, timeout=60)
        assert answer.status_code == 400, answer.text
        message: str = answer.json()["error"]["message"]
        return message

    assert "must be in [0, 128); got 128" in refusal([1, 128])
    assert "must be in [0, 128); got -1" in refusal([[1], [-1]])
    assert "32 bits" in refusal([1 << 40])
    assert "maximum context length is 64 tokens per text" in refusal([1] * 65)
    assert "text 1 has 65" in refusal([[1], [1] * 65])
    assert "at least 1 text or token" in refusal([])
    assert "text 0 has no tokens" in refusal([[]])
    for bad in ([1, "a"], [1.5], [True], [[1, "a"]], [["a"]], [None]):
        refusal(bad)
    many = {"model": "embedder", "input": [1] * 4000, "truncate": True}
    answer = httpx.post(f"{served.url}/v1/embeddings", json=many, timeout=60)
    assert answer.json()["usage"]["prompt_tokens"] == 64


def test_summaries_of_files(tmp_path: Path, paths: dict[str, Path]) -> None:
    (summary,) = summarize(paths["embedder"])
    assert (summary.architecture, summary.pooling, summary.causal) == ("bert", "mean", False)
    (summary,) = summarize(tiny_tokenizers.write(tiny_tokenizers.spm(), tmp_path / "s.gguf"))
    assert (summary.pooling, summary.causal, summary.n_ctx_train) == ("", True, 512)
    with pytest.raises(ModelLoadError):
        summarize(tmp_path / "none.gguf")
    assert find_present(str(paths["wide"])) == paths["wide"]
    assert find_present(str(tmp_path / "none.gguf")) is None
    assert find_present("no-such-model") is None


@pytest.mark.parametrize(
    ("option", "message"), [("none=mean", "no model 'none'"), ("max", "pooling must be one of")]
)
def test_a_bad_pooling_ends_the_start(option: str, message: str, paths: dict[str, Path]) -> None:
    options = ("--n-ctx", "64", "--pooling", option)
    with serve(f"first={paths['first']}", options=options) as served:
        assert served.process.wait(60) != 0
        assert message in " ".join("".join(served.lines).split())
