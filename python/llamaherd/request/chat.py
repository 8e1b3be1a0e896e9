"""Conversations: what a chat template is told, and the model's answer taken apart."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llamaherd import _core
from llamaherd._core import Delta, FinishReason, InvalidRequestError, LlamaHerdError
from llamaherd.request.prompt import Message
from llamaherd.structured_output.rule import Rule
from llamaherd.structured_output.tool_schemas import ToolSchemas
from llamaherd.validation import require_unicode

# How long the text of an answer rests after it was parsed, in times of what that took; and the
# seconds that are nothing.
_REST = 30
_QUICK_S = 0.0005
_MAX_KWARGS_CHARS = 65_536
_MAX_KWARG = 10**6
# Choices that name no tool.
_CHOICES = ("auto", "required", "none")


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What a chat template is told besides the messages.

    Args:
      tools: Tool definitions in OpenAI's format.
      tool_choice: "auto": the model may call tools; "required": it must; "none": it must not; or
        the name of the tool it must call. Calls obey their tool's schema.
      parallel_tool_calls: It may make several calls in one answer.
      thinking: Models that can think before they answer do. An answer that must obey a schema or a
        grammar of SamplingParams is never thought about.
      template_kwargs: More variables for the template, JSON values by name: at most 65,536
        characters of JSON, numbers in [-10^6, 10^6], as a template may count to one.

    Raises:
      InvalidRequestError: tool_choice is none of these.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    thinking: bool = True
    template_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self._chosen()

    def _chosen(self) -> list[Mapping[str, Any]]:
        """The tools that may be called."""
        if self.tool_choice in _CHOICES:
            return list(self.tools)
        named = [tool for tool in self.tools if _name_of(tool) == self.tool_choice]
        if not named:
            raise InvalidRequestError(
                "tool_choice must be auto, required, none, or the name of a tool; "
                f"got {self.tool_choice!r}"
            )
        return named

    def render(
        self, core: _core.BatchEngine, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> ChatPrompt:
        """A conversation as the model reads it.

        Raises:
          InvalidRequestError: As `BatchEngine.apply_chat_template`.
        """
        tools = self._chosen()
        choice = self.tool_choice if self.tool_choice in _CHOICES else "required"
        apply = partial(
            core.apply_chat_template,
            messages_json=_json("messages", list(messages)),
            parallel_tool_calls=bool(self.parallel_tool_calls),
            thinking=bool(self.thinking),
            template_kwargs_json=_kwargs_json(dict(self.template_kwargs or {})),
            add_generation_prompt=add_generation_prompt,
        )
        if not tools or choice == "none" or not add_generation_prompt:
            tools_json = _json("tools", tools) if tools else ""
            # Else llama.cpp would make a grammar of schemas as they were sent.
            plain = apply(tools_json=tools_json, tool_choice="none")
            return ChatPrompt(plain.text, plain.stop, plain.preserved_tokens, plain.format, None)
        tools_json = _json("tools", tools)
        schemas = ToolSchemas(tools)
        shown = apply(tools_json=tools_json, tool_choice="none")
        marked, by_mark = schemas.marked_whole()
        called = apply(tools_json=_json("tools", marked), tool_choice=choice)
        if not _holds_all(called.format, by_mark):
            marked, by_mark = schemas.marked_apart()
            called = apply(tools_json=_json("tools", marked), tool_choice=choice)
        rule = None
        if called.format is not None and called.format.grammar.gbnf:
            grammar = called.format.grammar
            rule = Rule(
                "tools",
                grammar.gbnf,
                tuple(by_mark.items()),
                frozenset(called.preserved_tokens),
                "" if grammar.lazy else grammar.generation_prompt,
            )
        return ChatPrompt(shown.text, called.stop, called.preserved_tokens, called.format, rule)


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as the model reads it.

    Attributes:
      text: With the names of special tokens.
      stop: Strings that end the assistant's turn.
      preserved_tokens: Special tokens that the format is read by.
      format: How the answer is read; None: its text is its content.
      rule: What calls of tools must obey, as format.grammar says; None: there are none.
    """

    text: str
    stop: list[str]
    preserved_tokens: list[int]
    format: _core.ChatFormat | None
    rule: Rule | None


def _holds_all(format_: _core.ChatFormat | None, marks: Iterable[str]) -> bool:
    if format_ is None:
        return True
    return all(json.dumps(mark) in format_.grammar.gbnf for mark in marks)


def _name_of(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return function.get("name") if isinstance(function, Mapping) else None


def _json(name: str, value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} must be JSON values: {error}") from None
    require_unicode(f"{name} as JSON", text)
    return text


def _kwargs_json(kwargs: dict[str, Any]) -> str:
    text = _json("template_kwargs", kwargs)
    if len(text) > _MAX_KWARGS_CHARS:
        raise InvalidRequestError(
            f"template_kwargs must have at most {_MAX_KWARGS_CHARS} characters of JSON; got"
            f" {len(text)}"
        )
    left: list[Any] = [json.loads(text)]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, (int, float)) and not abs(value) <= _MAX_KWARG:
            raise InvalidRequestError(
                f"numbers in template_kwargs must be in [-{_MAX_KWARG}, {_MAX_KWARG}]; got"
                f" {str(value)[:40]}"
            )
    return text


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool by the model, or what a `ReplyDelta` adds to one.

    Attributes:
      index: Of the call in the answer, from 0.
      id: Names the call; the message with the tool's result refers to it. In a delta only with the
        call's beginning, else empty.
      name: Of the tool; in a delta likewise.
      arguments: JSON; in a delta the next piece of it.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class AssistantMessage:
    """The assistant's answer, taken apart, or what one delta adds to it.

    Attributes:
      content: What it says.
      reasoning: What it thought before, if the model does that.
      tool_calls: The tools it calls.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


class MessageReader:
    """Takes an answer apart as it comes. Used by one thread at a time."""

    def __init__(self, format_: _core.ChatFormat | None) -> None:
        self._format = format_
        self._text: list[str] = []  # so far, in pieces
        self._ids: list[str] = []
        self._parse_again_s = 0.0  # on the monotonic clock
        self._reply = AssistantMessage()  # of what was parsed

    @property
    def reply(self) -> AssistantMessage:
        """The answer so far, as far as it was taken apart."""
        return AssistantMessage("".join(self._text)) if self._format is None else self._reply

    def read(self, delta: Delta) -> AssistantMessage:
        """What the next delta of the output adds to the answer.

        An answer that is not in the model's format for thoughts and calls, or is cut short, keeps
        its text as content from where it cannot be read on. Where parsing it takes long, which
        grows with its length, what some deltas add comes with a later one: it is parsed in a
        thirtieth of the time.
        """
        if not delta.text and delta.finish_reason is None:
            return AssistantMessage()
        self._text.append(delta.text)
        if self._format is None:
            return AssistantMessage(delta.text)
        begin_s = time.monotonic()
        if delta.finish_reason is None and begin_s < self._parse_again_s:
            return AssistantMessage()
        before = self._reply
        self.read_all("".join(self._text), delta.finish_reason)
        took_s = time.monotonic() - begin_s
        self._parse_again_s = begin_s + (_REST * took_s if took_s > _QUICK_S else 0)
        return _added(before, self._reply)

    def read_all(self, text: str, finish_reason: FinishReason | None) -> AssistantMessage:
        """The answer so far, whose text this is."""
        self._text = [text]
        if self._format is None:
            return self.reply
        try:
            parsed = self._format.parse(text, finish_reason is FinishReason.STOP)
        except LlamaHerdError:
            if finish_reason is not None and not self._reply:
                self._reply = AssistantMessage(text)
        else:
            self._reply = AssistantMessage(parsed.content, parsed.reasoning, self._calls(parsed))
        return self._reply

    def _calls(self, parsed: _core.ChatMessage) -> tuple[ToolCall, ...]:
        calls = []
        for index, call in enumerate(parsed.tool_calls):
            if not call.name:
                break  # there is more of it to come
            if index == len(self._ids):
                self._ids.append(call.id or f"call_{uuid.uuid4().hex[:24]}")
            calls.append(ToolCall(index, self._ids[index], call.name, call.arguments))
        return tuple(calls)


def _added(before: AssistantMessage, after: AssistantMessage) -> AssistantMessage:
    return AssistantMessage(
        after.content[len(before.content) :],
        after.reasoning[len(before.reasoning) :],
        tuple(_added_calls(before.tool_calls, after.tool_calls)),
    )


def _added_calls(before: Sequence[ToolCall], after: Sequence[ToolCall]) -> list[ToolCall]:
    added = []
    for call in after:
        if call.index >= len(before):
            added.append(call)
            continue
        arguments = call.arguments[len(before[call.index].arguments) :]
        if arguments:
            added.append(ToolCall(call.index, "", "", arguments))
    return added
