"""Chat: options of the chat template, and parsing of the assistant's message."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Any

from llamaherd import _core
from llamaherd._core import Delta, InvalidRequestError, LlamaHerdError
from llamaherd.request.prompt import Message
from llamaherd.structured_output.rule import MarkedSchema, Rule
from llamaherd.structured_output.tool_schemas import ToolSchemas
from llamaherd.validation import require_unicode

_MAX_KWARGS_CHARS = 65_536
_MAX_KWARG = 10**6
# Choices other than the name of a tool.
_CHOICES = ("auto", "required", "none")
_TRUNCATIONS = ("auto", "disabled")


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Options of a chat request beside its messages.

    Args:
      tools: Tool definitions in OpenAI's format.
      tool_choice: "auto": the model may call tools; "required": it must; "none": it must not; or
        the name of the tool it must call. Arguments are constrained to the tool's schema.
      parallel_tool_calls: Allow several tool calls in one message.
      thinking: Allow reasoning on models that support it. Always off for output constrained by a
        schema or grammar of SamplingParams.
      template_kwargs: Additional variables of the template, JSON values by name: at most 65,536
        characters of JSON, numbers in [-10^6, 10^6] (a template may loop up to a number).
      continue_final_message: Whether the answer continues the last message, an assistant message
        without tool calls; the output holds the new text only. False: the answer is a new message.
        None: True if the last message is an assistant message.
      truncation: "auto": while the prompt and max_tokens (at most half of max_len) exceed max_len
        together, the oldest turn after the leading system and developer messages is dropped. A turn
        lasts from a user message to the next; the last turn is kept. "disabled": nothing is
        dropped.

    Raises:
      InvalidRequestError: tool_choice or truncation has none of these values.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    thinking: bool = True
    template_kwargs: Mapping[str, Any] | None = None
    continue_final_message: bool | None = None
    truncation: str = "disabled"

    def __post_init__(self) -> None:
        self._chosen()
        if self.truncation not in _TRUNCATIONS:
            raise InvalidRequestError(
                f"truncation must be one of {', '.join(_TRUNCATIONS)}; got {self.truncation!r}"
            )

    def _chosen(self) -> list[Mapping[str, Any]]:
        """The tools that the model may call."""
        tools = [_without_nulls(tool) for tool in self.tools]
        if self.tool_choice in _CHOICES:
            return tools
        named = [tool for tool in tools if _name_of(tool) == self.tool_choice]
        if not named:
            raise InvalidRequestError(
                "tool_choice must be auto, required, none, or the name of a tool; "
                f"got {self.tool_choice!r}"
            )
        return named

    def without_calls(self) -> ChatOptions:
        """The options of a prompt with the same text, whose answer calls no tools."""
        return replace(self, tools=self._chosen(), tool_choice="none")

    def render(
        self, core: _core.BatchEngine, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> ChatPrompt:
        """Render a conversation with the model's chat template.

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
            continue_final_message=self.continue_final_message,
        )
        if not tools or choice == "none" or not add_generation_prompt:
            tools_json = _json("tools", tools) if tools else ""
            # With tools llama.cpp would compile a grammar from the schemas as sent.
            plain = apply(tools_json=tools_json, tool_choice="none")
            return ChatPrompt(plain.text, plain.stop, plain.preserved_tokens, plain.format, None)
        tools_json = _json("tools", tools)
        schemas = ToolSchemas(tools)
        shown = apply(tools_json=tools_json, tool_choice="none")
        marked, marks = schemas.marked_whole()
        called = apply(tools_json=_json("tools", marked), tool_choice=choice)
        if not _holds_all(called.format, marks):
            marked, marks = schemas.marked_apart()
            called = apply(tools_json=_json("tools", marked), tool_choice=choice)
        rule = None
        if called.format is not None and called.format.grammar.gbnf:
            grammar = called.format.grammar
            rule = Rule(
                "tools",
                grammar.gbnf,
                tuple(marks),
                frozenset(called.preserved_tokens),
                "" if grammar.lazy else grammar.generation_prompt,
            )
        return ChatPrompt(shown.text, called.stop, called.preserved_tokens, called.format, rule)


@dataclass(frozen=True)
class ChatPrompt:
    """A rendered conversation.

    Attributes:
      text: Special tokens are written by name.
      stop: Strings that end the assistant's turn.
      preserved_tokens: Special tokens that the parser of the format needs in the output text.
      format: Parser of the model's answer; None: the text is the content.
      rule: Constraint of tool calls, from format.grammar; None: unconstrained.
    """

    text: str
    stop: list[str]
    preserved_tokens: list[int]
    format: _core.ChatFormat | None
    rule: Rule | None


def _holds_all(format_: _core.ChatFormat | None, marked: Iterable[MarkedSchema]) -> bool:
    if format_ is None:
        return True
    return all(json.dumps(schema.mark) in format_.grammar.gbnf for schema in marked)


def _without_nulls(tool: Any) -> Any:
    """A tool without members that are None, such as its description: templates print them."""
    if not isinstance(tool, Mapping):
        return tool
    made = {name: value for name, value in tool.items() if value is not None}
    function = made.get("function")
    if isinstance(function, Mapping):
        made["function"] = {k: v for k, v in function.items() if v is not None}
    return made


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
    """A tool call of the model, or the part of one that a delta adds.

    Attributes:
      index: Index of the call in the message, from 0.
      id: Identifier that the message with the tool's result refers to. In deltas, empty after the
        first of a call.
      name: Name of the tool. In deltas, empty after the first of a call.
      arguments: JSON; in a delta its next part.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class AssistantMessage:
    """The parsed assistant message, or the part of it that one delta adds.

    Attributes:
      content: Visible text.
      reasoning: Reasoning text; empty for models without it.
      tool_calls: Tool calls.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


class MessageReader:
    """Incremental parser of an assistant message. Not thread-safe.

    The time per delta does not depend on the length of the message; the last delta parses the whole
    message once. Text that may be the start of a marker of the model's format is held back until it
    is decided. Arguments in the formats of Gemma 4 and MiniMax M3 are emitted each time the call
    has grown by an eighth.
    """

    def __init__(self, format_: _core.ChatFormat | None) -> None:
        self._format = format_
        self._parser = None if format_ is None else _core.MessageParser(format_)
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_CallText] = []

    @property
    def reply(self) -> AssistantMessage:
        """The message so far: the sum of all parts returned."""
        return AssistantMessage(
            "".join(self._content),
            "".join(self._reasoning),
            tuple(
                ToolCall(index, call.id, call.name, "".join(call.arguments))
                for index, call in enumerate(self._calls)
            ),
        )

    def read(self, delta: Delta) -> AssistantMessage:
        """Parse the next delta of the output, and return what it adds to the message.

        Text that does not follow the model's format is returned as content with the last delta.
        """
        if self._format is None or self._parser is None:
            return self._add(delta.text, "", ())
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
        """Parse the text of a finished message.

        Text that does not follow the model's format is content.
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
        """The part of a finished message that was not yet returned."""
        try:
            parsed = format_.parse(parser.text)
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
    """The received part of a tool call."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _named(message: _core.ChatMessage) -> Iterator[_core.ParsedToolCall]:
    """The calls before the first one without a name (incomplete)."""
    return takewhile(lambda call: call.name, message.tool_calls)


def _beyond(pieces: list[str], whole: str) -> str:
    """The rest of `whole` after the pieces; empty if it does not begin with them."""
    before = "".join(pieces)
    return whole[len(before) :] if whole.startswith(before) else ""
