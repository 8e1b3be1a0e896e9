"""Converts fields of a body to options of the engine."""

from __future__ import annotations

from typing import Any

from llamaherd.server.access.api_keys import ApiKey
from llamaherd.server.api.request_schemas import (
    SAMPLING_FIELDS,
    JsonObjectFormat,
    JsonSchemaFormat,
    ReasoningOptions,
    ResponseFormat,
    Sampling,
    SchedulingFields,
)
from llamaherd.server.api.responses_request import JsonSchemaText, ResponsesRequest
from llamaherd.server.common.settings import ServerSettings


def sampling_options(body: Sampling | ResponsesRequest) -> dict[str, Any]:
    """Options of SamplingParams set by a request."""
    options = {name: getattr(body, name, None) for name in SAMPLING_FIELDS}
    return {name: value for name, value in options.items() if value is not None}


def reasoning_options(
    reasoning: ReasoningOptions | None, effort: str | None = None, budget: int | None = None
) -> dict[str, Any]:
    """Options of ChatOptions for reasoning.

    Args:
      reasoning: Overridden by the other two.
      effort: reasoning_effort of the body.
      budget: thinking_budget_tokens of the body.
    """
    reasoning = reasoning or ReasoningOptions(effort=None, max_tokens=None, enabled=None)
    own = "none" if reasoning.enabled is False else reasoning.effort
    return {
        "reasoning_effort": own if effort is None else effort,
        "thinking_budget": reasoning.max_tokens if budget is None else budget,
    }


def format_options(response_format: ResponseFormat | JsonSchemaText | None) -> dict[str, Any]:
    """Options of SamplingParams for a response format."""
    if isinstance(response_format, JsonObjectFormat):
        schema = response_format.json_schema
        return {"json_object": True} if schema is None else {"json_schema": schema}
    if isinstance(response_format, JsonSchemaFormat):
        return {"json_schema": response_format.json_schema.json_schema}
    if isinstance(response_format, JsonSchemaText):
        return {"json_schema": response_format.json_schema}
    return {}


def scheduling_options(
    body: SchedulingFields, key: ApiKey, settings: ServerSettings
) -> dict[str, Any]:
    """Options of BatchEngine.submit; an API key's limits override the request."""
    priority = key.priority if body.priority is None else max(body.priority, key.priority)
    deadlines = [s for s in (body.deadline_s, settings.request_timeout_s) if s is not None]
    return {
        "priority": priority,
        "tenant": key.tenant or body.user or "",
        "deadline_s": min(deadlines) if deadlines else None,
        "ttft_deadline_s": body.ttft_deadline_s,
        "cache": body.cache,
        "cache_salt": cache_salt(body.cache_salt, key, settings),
    }


def cache_salt(salt: str, key: ApiKey, settings: ServerSettings) -> str:
    """The salt of a request: tenants never share one, whatever salts they choose."""
    if not key.tenant or settings.shared_cache:
        return salt
    return f"{len(key.tenant)}:{key.tenant}{salt}"
