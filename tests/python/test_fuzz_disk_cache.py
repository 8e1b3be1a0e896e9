"""Fuzz: an engine that starts on a damaged cache folder answers as one without a cache."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_models
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import BatchEngine, EngineConfig, SamplingParams

PROMPTS = [[(7 * i + j) % tiny_models.N_VOCAB for i in range(60)] for j in (0, 1)]
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@dataclass
class Saved:
    """A model, a folder that an engine left, and what was answered."""

    model: Path
    folder: Path
    outputs: list[list[int]]


def answers(model: Path, folder: Path) -> tuple[list[list[int]], int]:
    """Outputs, and how many prompt tokens came from the cache."""
    config = EngineConfig(
        n_ctx=256, n_threads=1, warmup=False, cache_ram_mib=0, cache_dir=folder, cache_disk_mib=64
    )
    with BatchEngine(model, config) as engine:
        results = [engine.submit(prompt, GREEDY).result(timeout=60) for prompt in PROMPTS]
    return [list(r.token_ids) for r in results], sum(r.usage.cached_tokens for r in results)


@pytest.fixture(scope="module", params=["plain", "sliding_window"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_models.write(request.param, folder / "model.gguf")
    outputs, _ = answers(model, folder / "cache")
    assert list((folder / "cache").iterdir())
    again, n_cached = answers(model, folder / "cache")
    assert again == outputs
    assert n_cached > 0
    return Saved(model, folder / "cache", outputs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


edits = st.lists(
    st.tuples(
        st.integers(0, 10),
        st.sampled_from(["flip", "cut", "grow", "swap", "remove", "folder"]),
        st.integers(0, 1 << 20),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=6,
)


def damage(folder: Path, i: int, kind: str, at: int, byte: int) -> None:
    """Damages one of the files."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    if not files:
        return
    file = files[i % len(files)]
    content = bytearray(file.read_bytes())
    if kind == "flip" and content:
        content[at % len(content)] ^= byte
    elif kind == "cut":
        del content[at % (len(content) + 1) :]
    elif kind == "grow":
        content += bytes([byte]) * (at % 5000)
    elif kind == "swap":
        content = bytearray(files[at % len(files)].read_bytes())
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind != "remove":
        file.write_bytes(content)


@fuzz
@given(edits=edits)
def test_a_damaged_cache_changes_no_answer(
    saved: Saved, folder: Path, edits: list[tuple[int, str, int, int]]
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved.folder, folder)
    for edit in edits:
        damage(folder, *edit)
    outputs, _ = answers(saved.model, folder)
    assert outputs == saved.outputs
