"""``llamaherd generate``: offline inference of many prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from llamaherd import (
    BatchEngine,
    FinishReason,
    InvalidRequestError,
    RequestOutput,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from llamaherd.cli import options
from llamaherd.engine.stream import Stream, as_completed
from llamaherd.request.prompt import Prompt, TokenIds, is_messages
from llamaherd.tuning.workload import Recorder


@dataclass(frozen=True)
class _Job:
    """One prompt of the input."""

    index: int
    prompt: Prompt
    params: SamplingParams
    id: Any = None


@options.with_engine_options
def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts. Default: --file or stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="One prompt per line, or JSONL.")
    ] = None,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="Input lines are JSON objects: prompt or messages, sampling options and an id; "
            "output is JSONL. Implied by a file name ending in .jsonl.",
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="text or jsonl. Default: the format of the input."),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Apply the chat template to each text prompt, as a user message."
        ),
    ] = False,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Text: print output while it is generated. JSONL: write lines as requests finish.",
        ),
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Record lengths, arrival times and common prefixes of the requests to a file for "
            "tune; contains no text."
        ),
    ] = None,
    model: options.Model = options.default_model,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = 1.0,
    top_k: Annotated[int, typer.Option(help="0: disabled.")] = 0,
    top_p: Annotated[float, typer.Option(help="1: disabled.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="0: disabled.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="1: disabled.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="For reproducible output.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="Write a trace for ui.perfetto.dev.", dir_okay=False),
    ] = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Generate text for many prompts in batches; exit status 1 if a request failed.

    The preset is high_throughput unless --preset or --config is given.
    """
    if output not in (None, "text", "jsonl"):
        raise typer.BadParameter(f"must be text or jsonl; got {output}", param_hint="--output")
    params = SamplingParams(
        **options.given(max_tokens=max_tokens, seed=seed),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop or (),
        ignore_eos=ignore_eos,
    )
    is_jsonl = jsonl or (file is not None and file.suffix == ".jsonl")
    jobs = list(_read_jobs(prompts or [], file, is_jsonl, chat, params))
    config = engine.to_config(preset="high_throughput")
    # All prompts are in memory already: queue limits are for servers.
    config = replace(config, max_queued=None, max_queued_tokens=None)
    as_jsonl = is_jsonl if output is None else output == "jsonl"
    write = _write_jsonl if as_jsonl else _write_text
    with _recorder(record) as recorder, BatchEngine(model, config) as batch_engine:
        if trace is not None:
            batch_engine.start_trace()
        ok = write(batch_engine, jobs, stream, recorder)
        if trace is not None:
            _save_trace(batch_engine, trace)
    if not ok:
        raise typer.Exit(1)


def _save_trace(engine: BatchEngine, path: Path) -> None:
    try:
        engine.save_trace(path)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}") from None


def _read_jobs(
    prompts: list[str], file: Path | None, jsonl: bool, chat: bool, params: SamplingParams
) -> Iterator[_Job]:
    if prompts and file is not None:
        raise typer.BadParameter("prompts must be given as arguments or with --file, not both")
    lines = enumerate(prompts, 1) if prompts else _read_lines(file)
    for index, (number, line) in enumerate(lines):
        if jsonl and not prompts:
            yield _parse_job(index, f"line {number}", line, params)
        else:
            prompt: Prompt = [{"role": "user", "content": line}] if chat else line
            yield _Job(index, prompt, params)


def _read_lines(file: Path | None) -> Iterator[tuple[int, str]]:
    """Non-blank lines with their numbers."""
    name = "stdin" if file is None else str(file)
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"{name} is not valid UTF-8: byte {error.start} is {data[error.start]:#04x}"
        ) from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _parse_job(index: int, where: str, line: str, params: SamplingParams) -> _Job:
    try:
        fields_given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{where} is not JSON: {error}") from None
    if not isinstance(fields_given, dict):
        raise typer.BadParameter(f"{where} must be an object with prompt or messages")
    fields_given = {name: value for name, value in fields_given.items() if value is not None}
    job_id = fields_given.pop("id", None)
    prompts = [fields_given.pop(key) for key in ("prompt", "messages") if key in fields_given]
    if len(prompts) != 1:
        raise typer.BadParameter(f"{where} must have either prompt or messages")
    unknown = set(fields_given) - {field.name for field in fields(SamplingParams)}
    if unknown:
        raise typer.BadParameter(f"{where} has an unknown option: {sorted(unknown)[0]}")
    try:
        return _Job(index, prompts[0], replace(params, **fields_given), job_id)
    except (InvalidRequestError, TypeError) as error:
        raise typer.BadParameter(f"{where}: {error}") from None


def _submit_all(engine: BatchEngine, jobs: list[_Job]) -> list[Stream | RequestOutput]:
    def submit(job: _Job) -> Stream | RequestOutput:
        try:
            return engine.submit(job.prompt, job.params)
        except (InvalidRequestError, TypeError) as error:
            return RequestOutput("", [], FinishReason.ERROR, str(error), Usage(0, 0, 0), None)

    return [submit(job) for job in jobs]


def _write_text(
    engine: BatchEngine, jobs: list[_Job], stream: bool, recorder: Recorder | None
) -> bool:
    """Print results in prompt order; with streaming, the first unfinished one as it is
    generated."""
    ok = True
    for job, item in zip(jobs, _submit_all(engine, jobs), strict=True):
        if len(jobs) > 1:
            print(f"=== {job.index + 1}: {_title(job.prompt)}", flush=True)
        # Deltas of several outputs are interleaved.
        shows = stream and isinstance(item, Stream) and (job.params.best_of or job.params.n) == 1
        if shows:
            for delta in cast("Stream", item):
                print(delta.text, end="", flush=True)
            print()
        result = item.result() if isinstance(item, Stream) else item
        if not shows:
            for choice in result.choices or (result,):
                print(choice.text, flush=True)
        _record(recorder, engine, job, result)
        ok &= _report(job, result)
    return ok


def _write_jsonl(
    engine: BatchEngine, jobs: list[_Job], as_ready: bool, recorder: Recorder | None
) -> bool:
    items = _submit_all(engine, jobs)
    ok = True
    for job, result in _as_ready(jobs, items) if as_ready else _in_order(jobs, items):
        record = {} if job.id is None else {"id": job.id}
        record |= {"index": job.index, **_as_record(result), "usage": vars(result.usage)}
        if result.choices:
            record["choices"] = [
                {"index": choice.index, **_as_record(choice)} for choice in result.choices
            ]
        print(json.dumps(record, ensure_ascii=False), flush=True)
        _record(recorder, engine, job, result)
        ok &= _report(job, result)
    return ok


def _as_record(result: RequestOutput) -> dict[str, Any]:
    record: dict[str, Any] = {
        "text": result.text,
        "finish_reason": result.finish_reason.name.lower(),
    }
    if result.error:
        record["error"] = result.error
    for name in ("logprobs", "prompt_logprobs"):
        tokens: list[TokenLogprob] = getattr(result, name)
        if tokens:
            keys = ("token_id", "logprob", "rank", "text_offset", "top")
            record[name] = [{key: getattr(token, key) for key in keys} for token in tokens]
    return record


def _in_order(
    jobs: list[_Job], items: list[Stream | RequestOutput]
) -> Iterator[tuple[_Job, RequestOutput]]:
    for job, item in zip(jobs, items, strict=True):
        yield job, item.result() if isinstance(item, Stream) else item


def _as_ready(
    jobs: list[_Job], items: list[Stream | RequestOutput]
) -> Iterator[tuple[_Job, RequestOutput]]:
    running: dict[Stream, _Job] = {}
    for job, item in zip(jobs, items, strict=True):
        if isinstance(item, Stream):
            running[item] = job
        else:
            yield job, item
    for stream in as_completed(running):
        yield running[stream], stream.result()


def _recorder(path: Path | None) -> AbstractContextManager[Recorder | None]:
    if path is None:
        return nullcontext()
    try:
        return Recorder(path)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}") from None


def _record(
    recorder: Recorder | None, engine: BatchEngine, job: _Job, result: RequestOutput
) -> None:
    if recorder is None or not result.token_ids:
        return
    prompt = job.prompt
    if is_messages(prompt):
        prompt = engine.apply_chat_template(prompt).text
    token_ids = engine.tokenize(prompt) if isinstance(prompt, str) else cast("TokenIds", prompt)
    for choice in result.choices or (result,):
        recorder.add(token_ids, choice)


def _report(job: _Job, result: RequestOutput) -> bool:
    if result.finish_reason is not FinishReason.ERROR:
        return True
    print(f"llamaherd: prompt {job.index + 1} failed: {result.error}", file=sys.stderr)
    return False


def _title(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:67] + "..."
