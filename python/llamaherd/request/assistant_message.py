"""The assistant's message, parsed from an output."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from llamaherd import _core
from llamaherd._core import Delta, LlamaHerdError


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
