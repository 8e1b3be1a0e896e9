"""A GGUF file in several parts loads by any of its parts and answers as the whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from llamaherd import LLM, EngineConfig, ModelLoadError, SamplingParams

pytestmark = pytest.mark.slow

WRITTEN_BY_THE_WRITER = ("GGUF.", "general.architecture")


@pytest.fixture(scope="module")
def parts(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("split")
    reader = GGUFReader(model_path)
    writer = GGUFWriter(folder / "model.gguf", "llama", split_max_tensors=100)
    for field in reader.fields.values():
        if field.name.startswith(WRITTEN_BY_THE_WRITER):
            continue
        element = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(folder.glob("*.gguf"))
    names = [f"model-{part:05d}-of-00003.gguf" for part in (1, 2, 3)]
    assert [path.name for path in paths] == names
    return paths


def test_a_split_model_answers_as_the_whole_one(model_path: Path, parts: list[Path]) -> None:
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    config = EngineConfig(deterministic=True, n_ctx=256, max_seqs=1)
    answers = []
    for path in (model_path, parts[0], parts[2]):
        with LLM(path, config, progress=False) as llm:
            answers.append(llm.generate(["The capital of France is"], params)[0].token_ids)
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    hidden = parts[1].with_suffix(".away")
    parts[1].rename(hidden)
    try:
        with pytest.raises(ModelLoadError, match=parts[1].name):
            LLM(parts[0], progress=False)
    finally:
        hidden.rename(parts[1])


def test_a_damaged_part_is_named_once(parts: list[Path]) -> None:
    content = parts[1].read_bytes()
    parts[1].write_bytes(content[:20])
    try:
        with pytest.raises(ModelLoadError) as caught:
            LLM(parts[0], progress=False)
    finally:
        parts[1].write_bytes(content)
    assert str(caught.value).startswith(f"cannot load {parts[1]}: ")
    assert str(caught.value).count("cannot load") == 1
