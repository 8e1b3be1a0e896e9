"""The llamaherd command, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llamaherd import BatchEngine, EngineConfig, SamplingParams, __version__

COMMANDS = ["demo", "generate", "chat", "pull", "quantize", "info", "top", "tune"]
# Small, so that each start is quick.
ENGINE = ("--n-ctx", "512", "--max-seqs", "2", "--threads", "1")
GREEDY = ("--temperature", "0", "--max-tokens", "4", *ENGINE)
# Wide and plain: rich folds and colours what it writes to a narrow or a capable terminal.
ENVIRONMENT = {**os.environ, "COLUMNS": "240", "NO_COLOR": "1", "TERM": "dumb"}
WAIT_S = 300


def command() -> str:
    beside = Path(sys.executable).with_name("llamaherd")
    found = str(beside) if beside.exists() else shutil.which("llamaherd")
    assert found, "the llamaherd script is not installed"
    return found


def run(*args: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [command(), *map(str, args)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=WAIT_S,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def capital(model_path: Path) -> str:
    """What the model says after "The capital of France is", by the library."""
    with BatchEngine(model_path, EngineConfig(n_ctx=512, max_seqs=2, n_threads=1)) as engine:
        params = SamplingParams(temperature=0, max_tokens=4)
        return engine.submit("The capital of France is", params).result().text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str) -> None:
    assert name in run("--help").stdout
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"llamaherd {name}" in done.stdout


def test_no_command_shows_help_and_an_unknown_one_is_refused() -> None:
    assert all(name in run().stdout for name in COMMANDS)
    done = run("fly")
    assert done.returncode == 2
    assert "fly" in done.stderr


def test_info_tells_versions_devices_and_a_models_facts(model_path: Path) -> None:
    plain = run("info")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert __version__ in plain.stdout
    assert "CPU" in plain.stdout
    about = run("info", "-m", model_path)
    assert (about.returncode, about.stderr) == (0, "")
    assert "49,152" in about.stdout
    assert "llama" in about.stdout


def test_pull_prints_the_path(model_path: Path) -> None:
    done = run("pull")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()) == model_path
    missing = run("pull", "no-such-model")
    assert missing.returncode == 1
    assert missing.stderr.startswith("llamaherd: unknown model 'no-such-model'")


def test_generate_for_arguments(model_path: Path, capital: str) -> None:
    one = run("generate", "-m", model_path, *GREEDY, "The capital of France is")
    assert (one.returncode, one.stderr, one.stdout) == (0, "", capital + "\n")
    two = run("generate", "-m", model_path, *GREEDY, "The capital of France is", "Once")
    assert two.returncode == 0
    assert two.stdout.startswith(f"=== 1: The capital of France is\n{capital}\n=== 2: Once\n")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_generate_for_lines_of_a_file_or_of_stdin(
    model_path: Path, tmp_path: Path, capital: str, ends: str
) -> None:
    lines = ends.join(["The capital of France is", "", "Once", ""])
    file = tmp_path / "prompts.txt"
    file.write_bytes(lines.encode())
    from_file = run("generate", "-m", model_path, *GREEDY, "--file", file)
    from_stdin = run("generate", "-m", model_path, *GREEDY, stdin=lines)
    assert from_file.stdout == from_stdin.stdout
    assert (from_file.returncode, from_stdin.returncode) == (0, 0)
    assert from_file.stdout.startswith(f"=== 1: The capital of France is\n{capital}\n=== 2: Once\n")
    both = run("generate", "-m", model_path, "--file", file, "a prompt")
    assert both.returncode == 2
    assert "not both" in both.stderr


def test_streamed_text_is_the_same_text(model_path: Path, capital: str) -> None:
    done = run("generate", "-m", model_path, *GREEDY, "--stream", "The capital of France is")
    assert (done.returncode, done.stdout) == (0, capital + "\n")


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_jsonl_carries_ids_options_and_usage(
    model_path: Path, tmp_path: Path, capital: str, stream: tuple[str, ...]
) -> None:
    jobs = [
        {"id": "a", "prompt": "The capital of France is"},
        {"id": 7, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
        {"prompt": [5, 6, 7], "max_tokens": 3, "ignore_eos": True, "stop": ["zzz"], "n": None},
    ]
    file = tmp_path / "jobs.jsonl"
    file.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    done = run("generate", "-m", model_path, *GREEDY, *stream, "--file", file)
    assert (done.returncode, done.stderr) == (0, "")
    written = records(done.stdout)
    if not stream:
        assert [record["index"] for record in written] == [0, 1, 2]
    first, second, third = sorted(written, key=lambda record: record["index"])
    assert (first["id"], first["text"], first["finish_reason"]) == ("a", capital, "length")
    assert first["usage"] == {"prompt_tokens": 5, "cached_tokens": 0, "completion_tokens": 4}
    assert (second["id"], second["usage"]["completion_tokens"]) == (7, 2)
    assert second["usage"]["prompt_tokens"] > 10
    assert "id" not in third
    assert (third["usage"]["prompt_tokens"], third["usage"]["completion_tokens"]) == (3, 3)


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_jsonl_carries_several_outputs_and_logprobs(
    model_path: Path, tmp_path: Path, stream: tuple[str, ...]
) -> None:
    job = {"prompt": "Once", "n": 2, "logprobs": 1, "prompt_logprobs": 0, "max_tokens": 3}
    file = tmp_path / "jobs.jsonl"
    file.write_text(json.dumps(job | {"temperature": 1, "ignore_eos": True, "seed": 3}))
    done = run("generate", "-m", model_path, *stream, "--file", file)
    [record] = records(done.stdout)
    assert [choice["index"] for choice in record["choices"]] == [0, 1]
    for choice in record["choices"]:
        assert [len(token["top"]) for token in choice["logprobs"]] == [1, 1, 1]
        assert all(token["logprob"] < 0 for token in choice["logprobs"])
    assert record["text"] == record["choices"][0]["text"] != record["choices"][1]["text"]
    text = run("generate", "-m", model_path, *stream, "--file", file, "--output", "text")
    assert text.stdout == "".join(choice["text"] + "\n" for choice in record["choices"])


def test_a_failed_request_is_reported_and_the_others_are_written(
    model_path: Path, capital: str
) -> None:
    jobs = ['{"prompt": [999999]}', '{"prompt": "The capital of France is"}', '{"prompt": 5}']
    done = run("generate", "-m", model_path, *GREEDY, "--jsonl", stdin="\n".join(jobs))
    assert done.returncode == 1
    first, second, third = records(done.stdout)
    assert [r["finish_reason"] for r in (first, second, third)] == ["error", "length", "error"]
    assert second["text"] == capital
    assert "999999" in first["error"]
    assert "prompt 1 failed" in done.stderr
    assert "prompt 3 failed" in done.stderr


def test_output_of_text_prompts_can_be_jsonl(model_path: Path, capital: str) -> None:
    done = run("generate", "-m", model_path, *GREEDY, "-o", "jsonl", "The capital of France is")
    assert [record["text"] for record in records(done.stdout)] == [capital]
    assert run("generate", "-o", "xml", "x").returncode == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("1" * 5000, "is not JSON"),
        ("[]", "must be an object"),
        ("{}", "either prompt or messages"),
        ('{"prompt": "a", "messages": []}', "either prompt or messages"),
        ('{"prompt": "a", "max_token": 1}', "unknown option: max_token"),
        ('{"prompt": "a", "temperature": "hot"}', "temperature must be float; got 'hot'"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens must be >= 1; got 0"),
    ],
    ids=lambda text: text[:30],
)
def test_bad_jsonl_line_is_named(line: str, reason: str) -> None:
    done = run("generate", "--jsonl", stdin=f'{{"prompt": "good"}}\n\n{line}\n')
    assert done.returncode == 2
    assert done.stdout == ""
    assert "line 3" in done.stderr
    assert reason in done.stderr


def test_input_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    done = run("generate", stdin=b"abc\xff\n")
    assert done.returncode == 2
    assert "stdin is not valid UTF-8: byte 3 is 0xff" in done.stderr
    done = run("generate", "--file", tmp_path / "none.txt")
    assert done.returncode == 2
    assert "No such file" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--max-tokens", "0"), "llamaherd: max_tokens must be >= 1; got 0\n"),
        (("--kv-type", "f8"), "llamaherd: kv_type must be one of "),
        (("-m", "none.gguf"), "none.gguf"),
    ],
)
def test_errors_are_one_line(args: tuple[str, ...], message: str) -> None:
    done = run("generate", "Hi", *args)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def start_long_run(model_path: Path) -> subprocess.Popen[str]:
    """Prompts of which the first has ended when this returns."""
    args = ["generate", "-m", str(model_path), "-o", "jsonl", *ENGINE[:2]]
    args += [
        "--max-seqs",
        "1",
        "--threads",
        "1",
        "--ignore-eos",
        "--max-tokens",
        "200",
        *["Hi"] * 50,
    ]
    process = subprocess.Popen(
        [command(), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["usage"]["completion_tokens"] == 200
    return process


def test_ctrl_c_keeps_what_was_finished(model_path: Path) -> None:
    process = start_long_run(model_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (130, "")
    assert all(record["finish_reason"] == "length" for record in records(out))
    assert len(records(out)) < 49


def test_a_closed_pipe_ends_the_command_quietly(model_path: Path) -> None:
    process = start_long_run(model_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=WAIT_S) not in (0, -signal.SIGKILL)
    assert process.stderr.read() == ""
    process.stderr.close()


def test_quantize_writes_a_model_that_loads(model_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    done = run("quantize", model_path, target, "--type", "q4_0")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"small\.gguf: [\d.]+ MB", done.stdout)
    with BatchEngine(target, EngineConfig(n_ctx=256, max_seqs=1, warmup=False)) as engine:
        assert "Q4_0" in engine.model_info()["description"]
        result = engine.submit("The", SamplingParams(max_tokens=2, ignore_eos=True)).result()
        assert result.usage.completion_tokens == 2


def test_quantize_refuses_what_it_cannot_do(model_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    unknown = run("quantize", model_path, target, "--type", "q9_9")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "unknown quantization type 'q9_9'" in unknown.stderr
    text = tmp_path / "text.gguf"
    text.write_text("no model")
    assert run("quantize", text, target).returncode == 1
    nowhere = run("quantize", model_path, tmp_path / "no" / "folder.gguf")
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith("llamaherd: ")
    assert not target.exists()


def test_demo_prints_answers_and_figures(model_path: Path) -> None:
    done = run(
        "demo",
        "-m",
        model_path,
        "--max-tokens",
        "4",
        "--max-seqs",
        "4",
        "--n-ctx",
        "1024",
        "--threads",
        "1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Why do cats purr?" in done.stdout
    assert "one at a time" in done.stdout
    assert "tokens/s" in done.stdout
    assert re.search(r"^ratio +\d+\.\d+$", done.stdout, re.MULTILINE)
    assert re.search(r"^batch utilisation +\d+ % of 4 sequences$", done.stdout, re.MULTILINE)


def test_chat_answers_piped_lines_until_an_empty_one(model_path: Path) -> None:
    questions = "Hi!\nAnd you?\n\nnever read\n"
    done = run("chat", "-m", model_path, *GREEDY[:4], "--threads", "1", stdin=questions)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 2
    assert all(line.strip() for line in done.stdout.splitlines())
