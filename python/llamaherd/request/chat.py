"""Conversations: what a chat template is told, and the model's answer taken apart."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any

from llamaherd import _core
from llamaherd._core import Delta, InvalidRequestError, LlamaHerdError
from llamaherd.request.prompt import Message
from llamaherd.structured_output.rule import Rule
from llamaherd.structured_output.tool_schemas import ToolSchemas
from llamaherd.validation import require_unicode

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
    """Takes an answer apart as it comes. Used by one thread at a time.

    What a delta adds is found in time that does not depend on the answer's length; only the last
    delta has the whole answer parsed once. Text that may begin a marker of the model's format is
    held back until more has come. Arguments in the formats of Gemma 4 and MiniMax M3 come each time
    the call has grown by an eighth.
    """

    def __init__(self, format_: _core.ChatFormat | None) -> None:
        self._format = format_
        self._parser = None if format_ is None else _core.MessageParser(format_)
        self._text: list[str] = []  # so far, in pieces
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_CallText] = []

    @property
    def reply(self) -> AssistantMessage:
        """The answer so far: the sum of what was added to it."""
        return AssistantMessage(
            "".join(self._content),
            "".join(self._reasoning),
            tuple(
                ToolCall(index, call.id, call.name, "".join(call.arguments))
                for index, call in enumerate(self._calls)
            ),
        )

    def read(self, delta: Delta) -> AssistantMessage:
        """What the next delta of the output adds to the answer.

        Text from where an answer does not follow the model's format is content; it comes with the
        last delta.
        """
        if self._format is None or self._parser is None:
            return self._add(delta.text, "", ())
        self._text.append(delta.text)
        read = self._parser.read(delta.text)
        added = self._add(read.content, read.reasoning, read.tool_calls)
        if delta.finish_reason is None:
            return added
        rest = self._rest(self._parser, self._format)
        rest = self._add(rest.content, rest.reasoning, rest.tool_calls)
        return AssistantMessage(
            added.content + rest.content,
            added.reasoning + rest.reasoning,
            added.tool_calls + rest.tool_calls,
        )

    def read_all(self, text: str) -> AssistantMessage:
        """An answer that has ended, whose text this is.

        One that does not follow the model's format is content.
        """
        if self._format is None:
            return AssistantMessage(text)
        try:
            parsed = self._format.parse(text)
        except LlamaHerdError:
            return AssistantMessage(text)
        calls = (
            ToolCall(index, call.id or _new_id(), call.name, call.arguments)
            for index, call in enumerate(_named(parsed))
        )
        return AssistantMessage(parsed.content, parsed.reasoning, tuple(calls))

    def _rest(self, parser: _core.MessageParser, format_: _core.ChatFormat) -> AssistantMessage:
        """What an answer that has ended holds beyond what was added."""
        try:
            parsed = format_.parse("".join(self._text))
        except LlamaHerdError:
            return AssistantMessage(parser.unread)
        calls = []
        for index, call in enumerate(_named(parsed)):
            if index >= len(self._calls):
                calls.append(ToolCall(index, call.id, call.name, call.arguments))
            elif arguments := _beyond(self._calls[index].arguments, call.arguments):
                calls.append(ToolCall(index, "", "", arguments))
        content = _beyond(self._content, parsed.content)
        return AssistantMessage(content, _beyond(self._reasoning, parsed.reasoning), tuple(calls))

    def _add(
        self, content: str, reasoning: str, calls: Iterable[_core.ToolCallDelta | ToolCall]
    ) -> AssistantMessage:
        self._content.append(content)
        self._reasoning.append(reasoning)
        added = []
        for call in calls:
            id_ = ""
            if call.index == len(self._calls):
                id_ = call.id or _new_id()
                self._calls.append(_CallText(id_, call.name))
            self._calls[call.index].arguments.append(call.arguments)
            added.append(ToolCall(call.index, id_, call.name, call.arguments))
        return AssistantMessage(content, reasoning, tuple(added))


@dataclass
class _CallText:
    """A call of a tool so far, its arguments in pieces."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _named(message: _core.ChatMessage) -> Iterator[_core.ParsedToolCall]:
    """The calls up to one whose name is still to come."""
    return takewhile(lambda call: call.name, message.tool_calls)


def _beyond(pieces: list[str], whole: str) -> str:
    """What follows the pieces in the whole; nothing if it does not begin with them."""
    before = "".join(pieces)
    return whole[len(before) :] if whole.startswith(before) else ""
