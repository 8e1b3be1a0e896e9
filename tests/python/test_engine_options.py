"""The engine options of the commands that load a model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from llamaherd import EngineConfig
from llamaherd.cli import app, main, options

# What each needs beside its options to come as far as to the engine's.
COMMANDS: dict[str, tuple[str, ...]] = {
    "chat": (),
    "demo": (),
    "generate": ("Hi",),
    "info": ("--calibrate",),
    "serve": ("--no-auth",),
    "tune": (),
}
GIVEN: dict[str, tuple[Any, ...]] = {
    "config": ("--config", "FILE"),
    "preset": ("--preset", "low_latency"),
    "n_ctx": ("--n-ctx", 700),
    "max_seqs": ("--max-seqs", 3),
    "n_threads": ("--threads", 1),
    "n_gpu_layers": ("--n-gpu-layers", 0),
    "devices": ("--device", "a", "--device", "b"),
    "kv_type": ("--kv-type", "f32"),
    "cpu_kernels": ("--cpu-kernels", "stock"),
    "deterministic": ("--no-deterministic",),
}
BAD = {
    "no such preset": (("--preset", "slow"), 1, "preset must be one of "),
    "no cells": (("--n-ctx", "0"), 1, "n_ctx must be >= 1; got 0"),
    "too many sequences": (("--max-seqs", "65"), 1, "max_seqs must be in [1, 64]; got 65"),
    "no thread": (("--threads", "0"), 1, "n_threads must be in [1, "),
    "layers": (("--n-gpu-layers", "-2"), 1, "n_gpu_layers must be >= -1; got -2"),
    "no such type": (("--kv-type", "f8"), 1, "kv_type must be one of "),
    "no such kernels": (("--cpu-kernels", "fast"), 1, "cpu_kernels must be "),
    "no number": (("--n-ctx", "many"), 2, "Invalid value for '--n-ctx': "),
    "no file": (("--config", "none.toml"), 1, "none.toml"),
    "a value too many": (("--deterministic=yes",), 2, "'--deterministic' does not take a value"),
}


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, str]:
    """The exit status and the text of a command that ends before it loads anything."""
    monkeypatch.setattr(sys, "argv", ["llamaherd", *args])
    for name, value in (("COLUMNS", "240"), ("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert out == ""
    return int(ended.value.code or 0), err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_engine_option_is_one_of_each_command(command: str) -> None:
    group: Any = typer.main.get_command(app)
    found = {param.name: param for param in group.commands[command].params}
    names = [field.name for field in dataclasses.fields(options.EngineOptions)]
    assert list(GIVEN) == names
    for name in names:
        flags = {*found[name].opts, *found[name].secondary_opts}
        assert GIVEN[name][0] in flags
        assert found[name].help
        assert found[name].rich_help_panel == "Engine"
    assert "engine" not in found


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_value_is_refused_by_each_command_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, bad: str
) -> None:
    args, status, rule = BAD[bad]
    ended, text = refused(monkeypatch, capsys, command, *COMMANDS[command], *args)
    assert ended == status
    assert rule in text
    _, of_generate = refused(monkeypatch, capsys, "generate", "Hi", *args)
    if status == 1:
        assert text.startswith("llamaherd: ")
        assert text == of_generate
    else:  # behind the usage of the command
        assert text.partition("Error")[2] == of_generate.partition("Error")[2] != ""


def test_each_option_reaches_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text("poll = 7\nmax_seqs = 2\n")
    configs: list[EngineConfig] = []
    small = typer.Typer()

    @small.command()
    @options.with_engine_options
    def command(word: str = "", *, engine: options.EngineOptions) -> None:
        configs.append(engine.to_config(preset="high_throughput"))

    args = [str(file) if arg == "FILE" else str(arg) for given in GIVEN.values() for arg in given]
    small(["--word", "a", *args], standalone_mode=False)
    small([], standalone_mode=False)
    given = {name: values[-1] for name, values in GIVEN.items() if name != "config"}
    given |= {"devices": ["a", "b"], "deterministic": False}
    assert configs == [
        EngineConfig(poll=7, **given),
        EngineConfig(preset="high_throughput"),
    ]


def test_a_model_is_not_described_with_engine_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for args in GIVEN.values():
        ended, text = refused(monkeypatch, capsys, "info", *map(str, args))
        assert (ended, "engine options require --calibrate" in text) == (2, True)
