"""Prompts and parameters converted to the core's types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from llamaherd import _core
from llamaherd._core import DEFAULT_MAX_TOKENS, ContextLengthError, InvalidRequestError
from llamaherd.config.params import SamplingParams
from llamaherd.engine.prompt_tokenizer import PromptTokenizer
from llamaherd.request.assistant_message import MessageReader
from llamaherd.request.chat import ChatOptions, ChatPrompt
from llamaherd.request.conversation import without_oldest_turns
from llamaherd.request.infill import InfillPrompt
from llamaherd.request.prompt import Message, Prompt, TokenIds, is_messages
from llamaherd.structured_output.enforcement import unenforced_log
from llamaherd.structured_output.guides import GuideCache
from llamaherd.structured_output.reasoning import ReasoningMarkers
from llamaherd.structured_output.reasoning_budget import ReasoningBudget
from llamaherd.structured_output.rule import Rule
from llamaherd.structured_output.token_masks import OutputConstraint
from llamaherd.structured_output.triggers import Triggers


@dataclass(frozen=True)
class PreparedRequest:
    """The result of the slow part of a submit: tokenization, chat template, constraint."""

    token_ids: TokenIds
    params: _core.SamplingParams
    constraint: OutputConstraint | None = None
    is_chat: bool = False
    chat_format: _core.ChatFormat | None = None

    def reader(self) -> MessageReader | None:
        """A new parser of the output; None unless the prompt is a chat."""
        return MessageReader(self.chat_format) if self.is_chat else None

    @property
    def unenforced(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a tool's name and a keyword of its schema that is not enforced."""
        guide = None if self.constraint is None else self.constraint.guide
        return () if guide is None else guide.unenforced


class RequestPreparer:
    """The slow part of a submit: tokenize, render chat templates, compile constraints.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(
        self, core: _core.BatchEngine, guides: GuideCache, tokenizer: PromptTokenizer
    ) -> None:
        self._core = core
        self._guides = guides
        self._tokenizer = tokenizer

    def prepare(
        self, prompt: Prompt, params: SamplingParams | None, chat: ChatOptions | None
    ) -> PreparedRequest:
        """Raises as `BatchEngine.submit`."""
        params = params if params is not None else SamplingParams()
        if not isinstance(params, SamplingParams):
            raise TypeError(f"params must be a SamplingParams; got {type(params).__name__}")
        if is_messages(prompt):
            return self._prepare_chat(prompt, params, chat or ChatOptions())
        if chat is not None:
            raise InvalidRequestError("chat options need a prompt of chat messages")
        if isinstance(prompt, str):
            prompt = self.encode(prompt)
        elif isinstance(prompt, InfillPrompt):
            prompt = self._tokenizer.encode_infill(prompt, self._room(params))
        constraint = None if params.rule is None else self._constraint(params.rule)
        return PreparedRequest(cast("TokenIds", prompt), params._to_core(), constraint)

    def encode(self, prompt: str) -> list[int]:
        """Tokenize a prompt. Raises ContextLengthError if it has more than max_len tokens."""
        return self._tokenizer.encode(prompt, must_fit=True)

    def _encode_chat(self, text: str) -> list[int]:
        """Tokenize a rendered chat, whose template has dealt with the begin token (BOS)."""
        return self._core.tokenize(text, True, True, prompt=True)

    def _room(self, params: SamplingParams) -> int:
        """Prompt tokens that leave room for the output."""
        max_tokens = DEFAULT_MAX_TOKENS if params.max_tokens is None else params.max_tokens
        return self._max_len - min(max_tokens, self._max_len // 2)

    def _truncated(
        self, messages: Sequence[Message], chat: ChatOptions, params: SamplingParams
    ) -> Sequence[Message]:
        """The messages without the oldest turns, so that there is room for the output."""
        if params.rule is not None and not chat.calls_tools:
            chat = replace(chat, thinking=False)
        chat = chat.without_calls()
        n_most = self._room(params)

        def fits(some: Sequence[Message]) -> bool:
            text = chat.render(self._core, some, add_generation_prompt=True).text
            try:
                return len(self._encode_chat(text)) <= n_most
            except ContextLengthError:
                return False

        return without_oldest_turns(messages, fits)

    @cached_property
    def _max_len(self) -> int:
        return int(self._core.model_info()["max_len"])

    def _prepare_chat(
        self, messages: Sequence[Message], params: SamplingParams, chat: ChatOptions
    ) -> PreparedRequest:
        if chat.truncation == "auto":
            messages = self._truncated(messages, chat, params)
        rendered = self._render(messages, params.rule, chat)
        # Before the constraint of tool calls, which may read the end of the prompt.
        token_ids = self._encode_chat(rendered.text)
        core_params = params._to_core()
        if rendered.stop or rendered.format is not None:
            core_params = _core.SamplingParams(core_params)
            core_params.stop = [*core_params.stop, *rendered.stop]
            core_params.preserved_tokens = rendered.preserved_tokens
        constraint = None
        if rendered.rule is not None:
            triggers = None
            if rendered.is_triggered and rendered.format is not None:
                triggers = Triggers.of(rendered.format.grammar)
            constraint = self._constraint(rendered.rule, triggers)
            if constraint.guide is not None:
                unenforced_log.tell(constraint.guide.unenforced)
        budget = self._budget(rendered.format, chat.thinking_budget)
        if budget is not None:
            constraint = replace(constraint or self._constraint(), budget=budget)
        return PreparedRequest(token_ids, core_params, constraint, True, rendered.format)

    def _render(
        self, messages: Sequence[Message], rule: Rule | None, chat: ChatOptions
    ) -> ChatPrompt:
        if rule is None or chat.calls_tools:
            return chat.render(self._core, messages, add_generation_prompt=True, answer=rule)
        # The rule applies to the whole output, which therefore has no reasoning.
        chat = replace(chat, thinking=False)
        plain = chat.render(self._core, messages, add_generation_prompt=True)
        return replace(plain, rule=rule, format=None, preserved_tokens=[])

    def _constraint(
        self, rule: Rule | None = None, triggers: Triggers | None = None
    ) -> OutputConstraint:
        guide = None if rule is None else self._guides.make(rule)
        return OutputConstraint(self._guides.n_vocab, guide, triggers)

    def _budget(
        self, format_: _core.ChatFormat | None, n_tokens: int | None
    ) -> ReasoningBudget | None:
        """The limit of reasoning; None: no limit, or the model does not reason."""
        if n_tokens is None or format_ is None:
            return None
        markers = ReasoningMarkers.of(format_.grammar)
        if not markers.begin or not markers.ends:
            return None
        closing = self._core.tokenize(markers.ends[0], False, True)
        return ReasoningBudget(n_tokens, markers, tuple(closing))
