"""Schema of /infill: llama-server's fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llamaherd.server.api.body_schema import Body, WithoutEffect
from llamaherd.server.api.content_parts import Text
from llamaherd.server.api.request_schemas import SchedulingFields

SamplerName = Literal[
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
    "infill",
]


class ExtraChunk(Body):
    """A part of another file."""

    text: Text
    filename: Text = "tmp"
    time: Annotated[Any, WithoutEffect("parts are used in the order of input_extra")] = None


class Adapter(Body):
    id: int
    scale: float


class InfillRequest(SchedulingFields):
    """Fill in the middle, as llama.vim and llama.vscode request it."""

    model: str | None = Field(None, description="null: the server's first model.")
    input_prefix: Text = Field(description="Text before the gap.")
    input_suffix: Text = Field(description="Text behind the gap.")
    input_extra: Annotated[list[ExtraChunk], Field(fail_fast=True)] = Field(
        [], description="Parts of other files."
    )
    prompt: Text = Field(
        "", description="Text behind input_prefix, such as the beginning of the current line."
    )
    stream: bool = False

    n_predict: int = Field(
        -1,
        ge=-1,
        description="Maximum tokens. -1: the server's default_max_tokens; 0: only compute the "
        "prompt, for later requests with the same beginning.",
    )
    n_indent: int = Field(
        0,
        ge=0,
        description="End before the first line, after the current one, that is indented by fewer "
        "spaces and tabs.",
    )
    t_max_predict_ms: float = Field(
        0, ge=0, description="End at the first line feed after this time of generation. 0: off."
    )
    t_max_prompt_ms: Annotated[
        float | None, WithoutEffect("a prompt is always computed in full")
    ] = None
    stop: list[str] = Field([], fail_fast=True)
    response_fields: list[str] | None = Field(
        None, description="Return only these fields; a/b: field b of object a, named a/b."
    )
    return_tokens: bool = Field(False, description="Return token ids in tokens.")
    n_cache_reuse: Annotated[
        int | None, WithoutEffect("common prefixes of any length are reused")
    ] = None
    id_slot: Annotated[int | None, WithoutEffect("prefixes are found in every sequence")] = None
    lora: list[Adapter] = Field(
        [], description="Adapters are not supported: only those of scale 0 are accepted."
    )

    samplers: list[SamplerName] | None = Field(
        None,
        description="Samplers that are used, in llama.cpp's default order. null: all but infill. "
        "dry, top_n_sigma and xtc have no fields here, and no effect.",
    )
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = Field(-1, description="-1: a random seed.")
    ignore_eos: bool = False
    grammar: str | None = Field(None, description="GBNF.")
