"""Engine options in TOML files: what is written comes back, what is wrong is named."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamaherd import LLM, EngineConfig, InvalidRequestError, SamplingParams
from llamaherd.cli import options
from llamaherd.config import toml_file
from test_boundary import ALL_ENGINE
from test_cli import run

SOME = {
    "max_seqs": 3,
    "devices": ("CPU", 'a "quoted"\nname'),
    "tensor_split": (0.1, 1.0),
    "target_itl_ms": 40.5,
    "max_queued": 7,
    "max_queued_tokens": 9000,
    "aging_s": 12.5,
    "tenant_weights": {"acme": 2.0},
    "chat_template": "{{ messages }}\n\\ é \u2028",
    "cache_dir": "some/where",
    "warmup": False,
}


def written(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("values", [{}, SOME, ALL_ENGINE])
def test_what_is_written_comes_back(tmp_path: Path, values: dict[str, Any]) -> None:
    config = EngineConfig(**values)
    config.to_file(tmp_path / "config.toml", comment="two\nlines")
    assert EngineConfig.from_file(tmp_path / "config.toml") == config


def test_only_what_differs_from_the_defaults_is_written(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    EngineConfig(preset="balanced", n_threads=2, poll=1).to_file(file, comment="why\nso")
    assert file.read_text() == "# why\n# so\nn_threads = 2\n"
    EngineConfig().to_file(file)
    assert file.read_text() == ""


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    shares = np.array([0.25, 0.75])
    EngineConfig(
        max_seqs=np.int64(3),  # type: ignore[arg-type]
        target_itl_ms=np.float32(1.5),  # type: ignore[arg-type]
        tensor_split=list(shares),
    ).to_file(file)
    again = EngineConfig.from_file(file)
    assert again == EngineConfig(max_seqs=3, target_itl_ms=1.5, tensor_split=(0.25, 0.75))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chat_template=TEXT,
    devices=st.lists(TEXT, max_size=3).map(tuple),
    tensor_split=st.lists(st.floats(0, 1e6, width=32), max_size=3).map(tuple),
    target_itl_ms=st.none() | st.floats(1e-3, 1e300),
    n_ctx=st.none() | st.integers(1, 2**31 - 1),
    use_mlock=st.booleans(),
)
def test_whatever_is_written_comes_back(tmp_path: Path, **values: Any) -> None:
    config = EngineConfig(**values)
    config.to_file(tmp_path / "config.toml", comment=values["chat_template"])
    assert EngineConfig.from_file(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("max_seq = 4", "unknown option max_seq; valid options are preset, n_ctx, "),
        ("[engine]\nmax_seqs = 4", "unknown option engine"),
        ('max_seqs = "4"', "max_seqs must be int | None; got '4'"),
        ("max_seqs = 4.0", "max_seqs must be int | None; got 4.0"),
        ("max_seqs = true", "max_seqs must be int | None; got True"),
        ("max_seqs = 65", "max_seqs must be in [1, 64]; got 65"),
        ("max_seqs = 99999999999999999999", "max_seqs must be a 32-bit number"),
        ("max_seqs = 1979-05-27", "max_seqs must be int | None"),
        ("max_seqs = [4]", "max_seqs must be int | None"),
        ("max_seqs = {a = 4}", "max_seqs must be int | None"),
        ("target_itl_ms = 'soon'", "target_itl_ms must be float | None; got 'soon'"),
        ("target_itl_ms = nan", "target_itl_ms must be finite and > 0; got nan"),
        ("warmup = 1", "warmup must be bool; got 1"),
        ("preset = 'fast'", "preset must be one of low_latency, balanced, high_throughput"),
        ("devices = 'CPU'", "devices must be Sequence[str]; got 'CPU'"),
        ("devices = [1]", "devices must be Sequence[str]"),
        ("tensor_split = ['x']", "tensor_split must be Sequence[float]"),
        ("cache_dir = 5", "cache_dir must be str | os.PathLike[str]; got 5"),
        ("token_budget = 64\nn_ubatch = 128", "n_ubatch must be <= token_budget (64); got 128"),
        ("max_seqs = 4\nmax_seqs = 4", "is not valid TOML"),
        ("max_seqs", "is not valid TOML"),
        ("a = " + "[" * 100_000, "is not valid TOML"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, rule: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InvalidRequestError) as caught:
        EngineConfig.from_file(file)
    assert str(caught.value).startswith(str(file))
    assert rule in str(caught.value)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"cannot read .*none\.toml: No such file"):
        EngineConfig.from_file(tmp_path / "none.toml")
    file = tmp_path / "latin.toml"
    file.write_bytes(b'preset = "\xe9"')
    with pytest.raises(InvalidRequestError, match="is not valid TOML"):
        EngineConfig.from_file(file)
    with pytest.raises(FileNotFoundError):
        EngineConfig().to_file(tmp_path / "no" / "folder.toml")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40) | st.sampled_from(list(ALL_ENGINE)).map(lambda name: f"{name} = "))
def test_any_text_is_a_config_or_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(InvalidRequestError):
        config = EngineConfig.from_file(file)
        config.to_file(file)
        assert EngineConfig.from_file(file) == config


@dataclasses.dataclass(frozen=True)
class Options:
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    names: Sequence[str] = ("a",)
    limit: int | None = None


@pytest.mark.parametrize(
    "made",
    [
        Options(),
        Options(weights={"acme": 2.5, "a b": 1, "é.x": 0.5}, limit=0),
        Options(names=(), weights={"acme": 1}),
    ],
)
def test_tables_and_every_kind_of_default(tmp_path: Path, made: Options) -> None:
    toml_file.write(tmp_path / "options.toml", made)
    assert toml_file.read(tmp_path / "options.toml", Options) == made


def test_options_of_the_command_line_win_over_the_file(tmp_path: Path) -> None:
    text = 'preset = "low_latency"\nn_threads = 3\nkv_type = "f32"\ndeterministic = true\n'
    file = written(tmp_path, text)
    in_file = EngineConfig.from_file(file)
    assert options.EngineOptions(config=file).to_config(preset="high_throughput") == in_file
    given = options.EngineOptions(config=file, preset="balanced", n_threads=1, deterministic=False)
    changed = {"preset": "balanced", "n_threads": 1, "deterministic": False}
    assert given.to_config() == dataclasses.replace(in_file, **changed)
    default = options.EngineOptions().to_config(preset="high_throughput")
    assert default == EngineConfig(preset="high_throughput")


def test_an_engine_takes_a_config_from_a_file(model_path: Path, tmp_path: Path) -> None:
    text = "n_ctx = 512\nmax_seqs = 2\nn_threads = 1\nn_ubatch = 32\nwarmup = false\n"
    config = EngineConfig.from_file(written(tmp_path, text))
    with LLM(model_path, config) as llm:
        assert llm.engine.model_info()["max_seqs"] == 2
        result = llm.chat([{"role": "user", "content": "Hi"}], SamplingParams(max_tokens=2))
        assert result.usage.completion_tokens > 0


def test_commands_take_a_config(model_path: Path, tmp_path: Path) -> None:
    file = written(tmp_path, "n_ctx = 512\nmax_seqs = 2\nn_threads = 1\nmax_len = 16\n")
    args = ("-m", model_path, "--config", file)
    done = run("generate", *args, "--max-tokens", "2", "Hi", "one two three four " * 5)
    assert done.returncode == 1
    assert "maximum context length is 16" in done.stderr
    chat = run("chat", *args, "--max-tokens", "1", stdin="Hi\n")
    assert "maximum context length is 16" in chat.stderr
    demo = run("demo", *args, "--max-tokens", "1")
    assert demo.returncode == 1
    assert demo.stderr.startswith("llamaherd: no results because a request failed: ")
    assert "maximum context length is 16" in demo.stderr
    file = written(tmp_path, "n_ctx = 512\nmax_seqs = 2\nn_threads = 1\n")
    demo = run("demo", *args, "--max-tokens", "1")
    assert (demo.returncode, demo.stderr) == (0, "")
    assert "of 2 sequences" in demo.stdout
    info = run("info", *args, "--calibrate")
    assert (info.returncode, info.stderr) == (0, "")
    assert "rows in a call" in info.stdout


def test_a_bad_config_is_one_line_and_one_that_does_nothing_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "max_seqs = 65")
    for command in ("generate", "demo", "chat", "tune"):
        done = run(command, "--config", file)
        assert done.returncode == 1, command
        assert done.stderr == f"llamaherd: {file}: max_seqs must be in [1, 64]; got 65\n"
    assert "require --calibrate" in run("info", "--config", file).stderr
