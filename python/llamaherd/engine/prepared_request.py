"""Prompts and parameters converted to the core's types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from llamaherd import _core
from llamaherd._core import ContextLengthError, InvalidRequestError
from llamaherd.config.params import SamplingParams
from llamaherd.request.chat import ChatOptions, ChatPrompt, MessageReader
from llamaherd.request.conversation import without_oldest_turns
from llamaherd.request.prompt import Message, Prompt, TokenIds, is_messages
from llamaherd.structured_output.enforcement import unenforced_log
from llamaherd.structured_output.guides import GuideCache
from llamaherd.structured_output.rule import Rule
from llamaherd.structured_output.token_masks import TriggeredGuide, Triggers
from llamaherd.validation import require_unicode

_DEFAULT_MAX_TOKENS = 512  # of SamplingParams


@dataclass(frozen=True)
class PreparedRequest:
    """The result of the slow part of a submit: tokenization, chat template, constraint."""

    token_ids: TokenIds
    params: _core.SamplingParams
    obeyed: TriggeredGuide | None = None
    is_chat: bool = False
    chat_format: _core.ChatFormat | None = None

    def reader(self) -> MessageReader | None:
        """A new parser of the output; None unless the prompt is a chat."""
        return MessageReader(self.chat_format) if self.is_chat else None

    @property
    def unenforced(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a tool's name and a keyword of its schema that is not enforced."""
        return () if self.obeyed is None else self.obeyed.guide.unenforced


class RequestPreparer:
    """The slow part of a submit: tokenize, render chat templates, compile constraints.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(self, core: _core.BatchEngine, guides: GuideCache) -> None:
        self._core = core
        self._guides = guides

    def prepare(
        self, prompt: Prompt, params: SamplingParams | None, chat: ChatOptions | None
    ) -> PreparedRequest:
        """Raises as `BatchEngine.submit`."""
        params = params if params is not None else SamplingParams()
        if not isinstance(params, SamplingParams):
            raise TypeError(f"params must be a SamplingParams; got {type(params).__name__}")
        core_params = params._to_core()
        rule = params.rule
        obeyed = None if rule is None else TriggeredGuide(self._guides.make(rule))
        chat_format = None
        is_chat = is_messages(prompt)
        if is_messages(prompt):
            chat = chat or ChatOptions()
            if chat.truncation == "auto":
                prompt = self._truncated(prompt, chat, params)
            rendered = self._render(prompt, chat, rule)
            # Before the constraint of tool calls, which may read the end of the prompt.
            prompt = self.encode(rendered.text)
            if rendered.stop or rendered.format is not None:
                core_params = _core.SamplingParams(core_params)
                core_params.stop = [*core_params.stop, *rendered.stop]
            if rule is None and rendered.format is not None:
                chat_format = rendered.format
                core_params.preserved_tokens = rendered.preserved_tokens
                obeyed = self._tool_constraint(rendered)
        elif chat is not None:
            raise InvalidRequestError("chat options need a prompt of chat messages")
        if isinstance(prompt, str):
            prompt = self.encode(prompt)
        return PreparedRequest(cast("TokenIds", prompt), core_params, obeyed, is_chat, chat_format)

    def encode(self, prompt: str) -> list[int]:
        """Tokenize a prompt. Raises ContextLengthError if it has more than max_len tokens."""
        require_unicode("prompt", prompt)
        return self._core.tokenize(prompt, True, True, prompt=True)

    def _truncated(
        self, messages: Sequence[Message], chat: ChatOptions, params: SamplingParams
    ) -> Sequence[Message]:
        """The messages without the oldest turns, so that there is room for the output."""
        if params.rule is not None:
            chat = replace(chat, thinking=False)
        chat = chat.without_calls()
        max_tokens = _DEFAULT_MAX_TOKENS if params.max_tokens is None else params.max_tokens
        n_most = self._max_len - min(max_tokens, self._max_len // 2)

        def fits(some: Sequence[Message]) -> bool:
            text = chat.render(self._core, some, add_generation_prompt=True).text
            try:
                return len(self.encode(text)) <= n_most
            except ContextLengthError:
                return False

        return without_oldest_turns(messages, fits)

    @cached_property
    def _max_len(self) -> int:
        return int(self._core.model_info()["max_len"])

    def _render(
        self, messages: Sequence[Message], chat: ChatOptions, rule: Rule | None
    ) -> ChatPrompt:
        if rule is not None:
            if chat.tools and chat.tool_choice != "none":
                raise InvalidRequestError(
                    f"tools cannot be combined with {rule.kind}: set tool_choice to none, or omit "
                    f"{rule.kind}"
                )
            chat = replace(chat, thinking=False)
        return chat.render(self._core, messages, add_generation_prompt=True)

    def _tool_constraint(self, rendered: ChatPrompt) -> TriggeredGuide | None:
        """The constraint of tool calls."""
        if rendered.rule is None or rendered.format is None:
            return None
        grammar = rendered.format.grammar
        triggers = Triggers.of(grammar) if grammar.lazy else None
        guide = self._guides.make(rendered.rule)
        unenforced_log.tell(guide.unenforced)
        return TriggeredGuide(guide, triggers)
