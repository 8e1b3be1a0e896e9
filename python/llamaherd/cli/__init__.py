"""The command-line interface, ``llamaherd COMMAND``."""

from __future__ import annotations

import io
import sys

import typer

from llamaherd.cli import (
    bench,
    bench_serve,
    chat,
    demo,
    generate,
    info,
    pull,
    quantize,
    serve,
    top,
    tune,
)

app = typer.Typer(
    help="Batched inference of GGUF models: generate, serve, benchmark and tune.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command()(generate.generate)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(bench.bench)
app.command("bench-report")(bench.bench_report)
app.command("bench-serve")(bench_serve.bench_serve)
app.command()(top.top)
app.command()(tune.tune)
app.command()(pull.pull)
app.command()(quantize.quantize)
app.command()(info.info)


def main() -> None:
    """Entry point. Errors are one line on stderr; Ctrl-C and closed pipes end silently."""
    from llamaherd import LlamaHerdError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold any bytes
    try:
        app()
    except LlamaHerdError as error:
        print(f"llamaherd: {error}", file=sys.stderr)
        sys.exit(1)
