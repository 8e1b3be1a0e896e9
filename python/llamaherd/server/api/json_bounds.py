"""Checks a JSON body against Limits before it is validated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llamaherd.server.api.request_schemas import Sampling
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits

_GRAMMARS = ("grammar", "lark", "regex", "choice")
# Fields with the texts of embedding, rerank and score requests.
_TEXTS = {
    "/v1/embeddings": "input",
    "/v1/rerank": "documents",
    "/v1/score": "continuations",
}
# A JSON string, or a bracket.
_BRACKET = re.compile(r'"[^"]*"?|[\[{\]}]')


def require_bounded(body: Any, path: str, messages_field: str | None, limits: Limits) -> None:
    """Raises ApiError if a request's body exceeds a bound of Limits or holds a lone surrogate.

    Args:
      body: Parsed JSON.
      path: Path of the request.
      messages_field: Name of the field with messages; None: the endpoint has none.
      limits: Limits of the server.
    """
    _require_small(body, limits)
    if not isinstance(body, dict):
        return
    if messages_field is not None:
        _require_messages(body.get(messages_field), messages_field, limits)
    _require_rules(body, limits)
    _require_sampling(body, limits)
    if path == "/v1/completions":
        _require_outputs(body, limits)
    if path == "/v1/score":
        _require_scores(body, limits)
    if path in _TEXTS and not _is_token_list(body.get(_TEXTS[path])):
        _require_items(body, _TEXTS[path], "max_texts", limits)


def _is_token_list(value: Any) -> bool:
    """Whether a list of texts or prompts is one, given as token ids."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], int)


def _require_small(body: Any, limits: Limits) -> None:
    """Checks levels, values, keys, and lone surrogates."""
    n_values = 0
    level: list[Any] = [body]
    n_levels = 0
    most = limits.max_json_values
    while level:
        n_values += len(level)
        if n_values > most:
            raise limits.error("max_json_values", n_values, what="a body must hold")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if not _is_unicode(value):
                    raise _unicode_error(body)
            elif isinstance(value, dict):
                limits.require("max_json_keys", len(value), what="an object must hold")
                if not all(map(_is_unicode, value)):
                    raise _unicode_error(body)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        n_levels += any(isinstance(value, (dict, list)) for value in level)
        if n_levels > limits.max_json_depth:
            raise limits.error("max_json_depth", n_levels, what="a body must hold")
        level = below


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unicode_error(body: Any) -> ApiError:
    """The error for a lone surrogate, with the place of the first."""
    open_: list[tuple[str, Any]] = [("", body)]
    while open_:
        path, value = open_.pop()
        if isinstance(value, str) and not _is_unicode(value):
            at = next(i for i, c in enumerate(value) if "\ud800" <= c <= "\udfff")
            message = (
                f"{path or 'the body'} holds a character that is not valid Unicode, "
                f"{value[at]!a}, at index {at}"
            )
            return ApiError(400, message, param=path or None)
        if isinstance(value, dict):
            prefix = f"{path}." if path else ""
            items = [(prefix + ascii(key)[1:-1][:64], item) for key, item in value.items()]
            open_ += items[::-1]
            open_ += [(path, key) for key in value]
        elif isinstance(value, list):
            open_ += [(f"{path}[{i}]", item) for i, item in enumerate(value)][::-1]
    raise AssertionError


def _require_messages(messages: Any, field: str, limits: Limits) -> None:
    if not isinstance(messages, list):
        return
    limits.require("max_messages", len(messages), what=f"{field} must hold", param=field)
    n_parts = 0
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        n_parts += len(content) if isinstance(content, list) else 0
        for arguments in _arguments(message):
            n_parts += 1
            n_levels = _levels(arguments, limits.max_json_depth)
            what = f"arguments of a tool call in {field}[{i}] must hold"
            limits.require("max_json_depth", n_levels, what=what, param=field)
    what = f"{field} must hold parts of content and tool calls,"
    limits.require("max_message_parts", n_parts, what=what, param=field)


def _arguments(message: Any) -> Iterator[str]:
    """The JSON strings with arguments of a message's tool calls."""
    if not isinstance(message, dict):
        return
    calls = message.get("tool_calls")
    items: list[Any] = [message]
    if isinstance(calls, list):
        items += [call.get("function") for call in calls if isinstance(call, dict)]
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("arguments"), str):
            yield item["arguments"]


def _levels(text: str, most: int) -> int:
    """Nesting levels of a JSON text; stops counting above `most`."""
    if text.count("[") + text.count("{") <= most:
        return 0
    n = deepest = 0
    plain = text.replace(r"\\", "").replace(r"\"", "")
    for found in _BRACKET.finditer(plain):
        if found[0] in "[{":
            n += 1
            deepest = max(deepest, n)
            if deepest > most:
                break
        elif found[0] in "]}":
            n -= 1
    return deepest


def _require_rules(body: Mapping[str, Any], limits: Limits) -> None:
    """Checks tools, schemas and grammars."""
    tools = body.get("tools")
    schemas: list[Any] = []
    if isinstance(tools, list):
        n_tools = sum(map(_n_tools, tools))
        limits.require("max_tools", n_tools, what="tools must hold", param="tools")
        schemas += tools
    for name in ("response_format", "text"):
        schemas.append(body.get(name))
    n_nodes = _nodes(schemas, limits.max_schema_nodes)
    limits.require("max_schema_nodes", n_nodes, what="JSON schemas and tools must hold")
    n_bytes = 0
    for name, value in body.items():
        if Sampling.other_names.get(name, name) in _GRAMMARS:
            texts = value if isinstance(value, list) else [value]
            n_bytes += sum(len(text.encode()) for text in texts if isinstance(text, str))
    limits.require("max_grammar_kib", n_bytes, what="grammar, lark, regex and choice must hold")


def _n_tools(tool: Any) -> int:
    """1, or the number of tools in a namespace."""
    within = tool.get("tools") if isinstance(tool, dict) else None
    return max(1, len(within)) if isinstance(within, list) else 1


def _nodes(values: Iterable[Any], most: int) -> int:
    """Number of nested JSON values; stops counting above `most`."""
    n = 0
    open_ = list(values)
    while open_ and n <= most:
        value = open_.pop()
        n += 1
        if isinstance(value, dict):
            open_.extend(value.values())
        elif isinstance(value, list):
            open_.extend(value)
    return n


def _require_sampling(body: Mapping[str, Any], limits: Limits) -> None:
    for name in ("logit_bias", "stop_token_ids"):
        _require_items(body, name, "max_logit_bias", limits)


def _require_items(body: Mapping[str, Any], field: str, limit: str, limits: Limits) -> None:
    value = body.get(field)
    if isinstance(value, (dict, list)):
        limits.require(limit, len(value), what=f"{field} must hold", param=field)


def _require_scores(body: Mapping[str, Any], limits: Limits) -> None:
    prompt, continuations = body.get("prompt"), body.get("continuations")
    if not isinstance(prompt, str) or not isinstance(continuations, list):
        return
    n_bytes = len(prompt.encode()) * len(continuations)
    what = "prompt times the number of continuations must be"
    limits.require("max_score_mib", n_bytes, what=what, param="continuations")


def _require_outputs(body: Mapping[str, Any], limits: Limits) -> None:
    prompt = body.get("prompt")
    n_prompts = 1
    # A list of integers is one prompt.
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        n_prompts = len(prompt)
        limits.require("max_prompts", n_prompts, what="prompt must hold", param="prompt")
    each = [body.get(name) for name in ("n", "best_of")]
    n_each = max((n for n in each if isinstance(n, int)), default=1)
    what = f"{n_prompts} prompts times n or best_of ({n_each}) must be"
    limits.require("max_outputs", n_prompts * n_each, what=what)
