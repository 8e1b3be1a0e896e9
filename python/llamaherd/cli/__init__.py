"""The command line: ``llamaherd demo | generate | chat | pull | quantize | info``."""

from __future__ import annotations

import os
import sys

import typer

from llamaherd.cli import chat, demo, generate, info, pull, quantize

EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

app = typer.Typer(
    help="Run many sequences of one GGUF model at once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command()(generate.generate)
app.command()(chat.chat)
app.command()(pull.pull)
app.command()(quantize.quantize)
app.command()(info.info)


def main() -> None:
    """Entry point. Errors are one line on stderr; Ctrl-C and a closed pipe end quietly."""
    from llamaherd import LlamaHerdError

    try:
        app(standalone_mode=True)
    except LlamaHerdError as error:
        print(f"llamaherd: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Nobody reads any more: Python's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
