"""Files whose names or contents are not what a text must be: other bytes than UTF-8, marks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_models
from llamaherd import (
    BatchEngine,
    Embedder,
    EngineConfig,
    InvalidRequestError,
    ModelLoadError,
    SamplingParams,
    _core,
)
from llamaherd.models import resolve
from llamaherd.server import ModelPool, ModelSpec
from serving import serve

NAME = os.fsdecode(b"mod\xffel")
BOM = b"\xef\xbb\xbf"
SMALL: dict[str, Any] = {"n_ctx": 256, "max_seqs": 1, "n_threads": 1, "warmup": False}
OPTIONS = ("--n-ctx", "256", "--max-seqs", "1", "--threads", "1")
ONE = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("names") / os.fsdecode(b"fol\xfeder")
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def model(folder: Path, model_path: Path) -> Path:
    """The default model under a name that is not UTF-8."""
    path = folder / f"{NAME}.gguf"
    path.symlink_to(model_path)
    return path


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Path:
    """A model of token ids only, in a file whose name is not UTF-8."""
    plain = tiny_models.write("plain", folder.parent / "tiny.gguf")
    return plain.rename(folder / os.fsdecode(b"ti\xffny.gguf"))


def run(
    *arguments: str | bytes | Path, stdin: bytes = b"", encoding: str = ""
) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "COLUMNS": "240", "NO_COLOR": "1", "TERM": "dumb"}
    if encoding:
        env["PYTHONIOENCODING"] = encoding
    done = subprocess.run(
        [sys.executable, "-m", "llamaherd.cli", *map(os.fsencode, arguments)],
        input=stdin,
        capture_output=True,
        env=env,
        timeout=300,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done


def test_an_engine_takes_any_name(tiny: Path) -> None:
    config = EngineConfig(**SMALL)
    for name in (tiny, str(tiny)):
        with BatchEngine(name, config, progress=True) as engine:
            assert engine.path == tiny
            assert len(engine.submit([1, 2, 3], ONE).result().token_ids) == 2
    assert Embedder(tiny, config, pooling="mean", progress=False).n_embd > 0


def test_a_folder_of_cached_prefixes_may_have_any_name(tiny: Path, folder: Path) -> None:
    cache = folder / os.fsdecode(b"ca\xffche")
    config = EngineConfig(**SMALL, cache_dir=cache)
    assert config._to_core().cache_dir == str(cache)
    with BatchEngine(tiny, config, progress=False) as engine:
        engine.submit(list(range(1, 100)), ONE).result()
    assert list(cache.glob("*.llkv"))


def test_option_files_may_have_any_name_and_a_mark(folder: Path) -> None:
    file = folder / os.fsdecode(b"opt\xffions.toml")
    config = EngineConfig(n_ctx=300, cache_dir="café")
    config.to_file(file, comment=f"of {NAME}")
    assert EngineConfig.from_file(file) == config
    file.write_bytes(BOM + file.read_bytes())
    assert EngineConfig.from_file(str(file)) == config
    with pytest.raises(InvalidRequestError, match="cache_dir holds a character that is not valid"):
        EngineConfig(cache_dir=folder).to_file(file)
    assert EngineConfig.from_file(file) == config
    file.write_bytes(b"n_ctx = 1\xff")
    with pytest.raises(InvalidRequestError, match="is not valid TOML"):
        EngineConfig.from_file(file)


@pytest.mark.parametrize("name", [NAME, f"{NAME}.gguf", f"hf:a/b/{NAME}.gguf", f"/{NAME}/x"])
def test_a_model_that_does_not_exist_is_a_sentence(name: str) -> None:
    with pytest.raises(ModelLoadError):
        resolve(name)
    for command in ("generate", "info", "chat"):
        done = run(command, "-m", name, stdin=b"x")
        assert done.returncode == 1
        assert done.stderr.startswith(b"llamaherd: ")
        assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["", "ascii"])
def test_commands_take_any_name(model: Path, tiny: Path, folder: Path, encoding: str) -> None:
    prompts = folder / os.fsdecode(b"prom\xffpts.txt")
    prompts.write_bytes(b"One\n")
    trace = folder / os.fsdecode(b"tr\xfface.json")
    done = run(
        *("generate", "-m", model, "--file", prompts, "--trace", trace, *OPTIONS),
        *("--max-tokens", "2"),
        encoding=encoding,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert trace.exists()
    about = run("info", "-m", model, encoding=encoding)
    assert (about.returncode, about.stderr) == (0, b"")
    assert b"udcff" in about.stdout
    checked = run("info", "--check", model, encoding=encoding)
    assert checked.returncode == 0, checked.stderr
    pulled = run("pull", model, encoding=encoding)
    assert pulled.stdout == os.fsencode(model) + b"\n"
    target = folder / os.fsdecode(b"quanti\xffzed.gguf")
    quantized = run("quantize", tiny, target, "--type", "f16", encoding=encoding)
    assert quantized.returncode == 0, quantized.stderr
    assert target.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "-m", b"MODEL", b"\xff"),
        ("generate", "-m", b"MODEL", "--stop", b"\xff", "One"),
        ("generate", "-m", b"MODEL", "--file", b"none\xff"),
        ("generate", "-m", b"MODEL", "--config", b"none\xff"),
        ("generate", "-m", b"MODEL", "--record", b"/none\xff/x", "One"),
        ("generate", "-m", b"MODEL", "--trace", b"/none\xff/x", "One"),
        ("generate", "-m", b"MODEL", "--kv-type", b"\xff", "One"),
        ("generate", "-m", b"MODEL", "--device", b"\xff", "One"),
        ("generate", "-m", b"MODEL", "--preset", b"\xff", "One"),
        ("generate", "-m", b"MODEL", "--output", b"\xff", "One"),
        ("chat", "-m", b"MODEL", "--system", b"\xff"),
        ("quantize", b"MODEL", b"/none\xff/x"),
        ("quantize", b"MODEL", b"x", "--type", b"\xff"),
        ("tune", b"MODEL", "--workload", b"none\xff"),
        ("tune", b"MODEL", "--output", b"/none\xff/x"),
        ("tune", b"MODEL", "--objective", b"\xff"),
        ("serve", b"\xff=MODEL"),
        ("serve", b"MODEL", "--api-keys", b"none\xff"),
        ("serve", b"MODEL", "--host", b"\xff"),
        ("serve", b"MODEL", "--limit", b"\xff=1"),
        ("serve", b"MODEL", "--cors-origin", b"\xff"),
        ("serve", b"MODEL", "--allowed-host", b"\xff"),
        ("serve", b"MODEL", "--tls-certificate", b"none\xff", "--tls-key", b"none\xff"),
        ("serve", b"MODEL", "--data-dir", b"/dev/null/\xff"),
        ("bench", "--trace", b"none\xff"),
        ("bench", "--workload", b"\xff"),
        ("bench-report", b"none\xff"),
        ("bench-serve", "http://127.0.0.1:9/v1", "--prompts", b"none\xff"),
        ("bench-serve", b"http://127.0.0.1:9/\xff"),
        ("top", b"http://127.0.0.1:9/\xff", "--once"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_bytes_that_are_no_text_are_refused_with_a_sentence(
    model: Path, tmp_path: Path, arguments: tuple[str | bytes, ...]
) -> None:
    given = [os.fsencode(argument) for argument in arguments]
    given = [argument.replace(b"MODEL", os.fsencode(model)) for argument in given]
    given = [argument.replace(b"none", os.fsencode(tmp_path / "none")) for argument in given]
    done = run(*given, stdin=b"One\n")
    assert done.returncode in (1, 2)
    assert done.stderr


def test_a_mark_is_no_part_of_the_first_prompt(model: Path, tmp_path: Path) -> None:
    options = ("-m", model, *OPTIONS, "--max-tokens", "2", "--temperature", "0", "-o", "jsonl")
    plain = run("generate", *options, stdin=b"One\nTwo\n")
    marked = run("generate", *options, stdin=BOM + b"One\nTwo\n")
    assert (plain.returncode, plain.stderr) == (marked.returncode, marked.stderr) == (0, b"")
    assert marked.stdout == plain.stdout
    jsonl = tmp_path / "jobs.jsonl"
    jsonl.write_bytes(BOM + b'{"prompt": "One"}\r\n{"prompt": "Two"}\r\n')
    assert run("generate", *options, "--file", jsonl).stdout == plain.stdout


@pytest.mark.parametrize("content", [b"One\n\xff\n", BOM + b"\xff", b"\xff\xfeO\0n\0e\0"])
def test_prompts_that_are_no_text_are_refused(model: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    for arguments, stdin in ((("--file", file), b""), ((), content)):
        done = run("generate", "-m", model, *OPTIONS, *arguments, stdin=stdin)
        assert done.returncode == 2
        assert b"is not valid UTF-8" in done.stderr
    for path in ("bench-serve", "tune"):
        given = (
            ("http://127.0.0.1:9/v1", "--prompts", file)
            if path == "bench-serve"
            else (model, "--workload", file)
        )
        assert run(path, *given).returncode in (1, 2)


def test_a_lone_surrogate_of_the_input_can_be_written(model: Path) -> None:
    job = b'{"id": "\\ud800", "prompt": "One"}\n'
    options = ("-m", model, *OPTIONS, "--max-tokens", "2", "--jsonl")
    done = run("generate", *options, stdin=job)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == "\ud800"


def test_a_chat_of_bytes_that_are_no_text_is_refused(model: Path) -> None:
    done = run("chat", "-m", model, *OPTIONS, stdin=b"\xff\n", encoding="utf-8:strict")
    assert done.returncode == 1
    assert done.stderr.startswith(b"llamaherd: the input is not valid text")


@pytest.fixture(scope="module")
def url(tiny: Path) -> Iterator[str]:
    with serve(tiny, f"plain={tiny}", options=("--n-ctx", "256")) as served:
        yield served.url


def test_a_server_names_a_model_in_plain_text(url: str) -> None:
    models = httpx.get(url + "/v1/models", timeout=60).json()["data"]
    assert [entry["id"] for entry in models] == ["ti\\xffny", "plain"]
    for entry in models:
        body = {"model": entry["id"], "prompt": [1, 2, 3], "max_tokens": 2}
        answer = httpx.post(url + "/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200
        assert answer.json()["model"] == entry["id"]
    with pytest.raises(InvalidRequestError, match="the name of a model holds a character"):
        ModelPool([ModelSpec(NAME, "none.gguf")])


def test_the_core_takes_paths_as_the_system_does(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / os.fsdecode(b"\xff.gguf")
    _core.quantize(os.fsencode(tiny), target, "f16", 1)
    assert target.exists()
