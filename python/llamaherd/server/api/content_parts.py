"""Text parts of messages and items."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llamaherd.server.api.body_schema import Body, ByType, WithoutEffect

CACHED = "prefixes of all prompts are cached"

Text = Annotated[str, Field(max_length=1 << 24)]
Citations = Annotated[list[Any] | None, WithoutEffect("citations are not part of a prompt")]
CacheControl = Annotated[dict[str, Any] | None, WithoutEffect(CACHED)]


class TextPart(Body):
    type: Literal["text", "input_text", "output_text"]
    text: Text
    annotations: Citations = None
    logprobs: Annotated[list[Any] | None, WithoutEffect("they are not part of a prompt")] = None
    parsed: Annotated[Any, WithoutEffect("text holds it as JSON")] = None
    cache_control: CacheControl = None
    prompt_cache_breakpoint: CacheControl = None


class RefusalPart(Body):
    """A refusal of an assistant; part of its text."""

    type: Literal["refusal"]
    refusal: Text


Part = Annotated[TextPart | RefusalPart, ByType("content parts", "text")]
