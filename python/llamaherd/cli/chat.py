"""``llamaherd chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llamaherd import InvalidRequestError
from llamaherd.cli import options


@options.with_engine_options
def chat(
    model: options.Model = options.default_model,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = 0.7,
    *,
    engine: options.EngineOptions,
) -> None:
    """Chat with a model. An empty line or Ctrl-D exits; Ctrl-C stops the current output.

    The preset is low_latency unless --preset or --config is given.
    """
    from llamaherd import LLM, SamplingParams

    config = engine.to_config(preset="low_latency")
    params = SamplingParams(**options.given(max_tokens=max_tokens), temperature=temperature)
    messages: list[dict[str, str]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    with LLM(model, config) as llm:
        while question := _ask():
            messages.append({"role": "user", "content": question})
            answer = _answer(llm, messages, params)
            messages.append({"role": "assistant", "content": answer})


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip().removeprefix("\ufeff")
    except EOFError:
        return ""
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the input is not valid text: {error}") from None


def _answer(llm, messages, params) -> str:  # type: ignore[no-untyped-def]
    parts: list[str] = []
    try:
        for delta in llm.stream(messages, params):
            print(delta.text, end="", flush=True)
            parts.append(delta.text)
            if delta.error:
                print(f"\nllamaherd: {delta.error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(" ...", end="")
    print()
    return "".join(parts)
