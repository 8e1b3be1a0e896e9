"""Chat: options of a request, and the prompts they render."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.request.prompt import Message
from llamaherd.structured_output.rule import MarkedSchema, Rule, styled
from llamaherd.structured_output.tool_schemas import ToolSchemas
from llamaherd.validation import require_unicode

_MAX_KWARGS_CHARS = 65_536
_MAX_KWARG = 10**6
# Choices other than the name of a tool.
_CHOICES = ("auto", "required", "none")
# Literal in place of an answer under a schema.
_ANSWER = '"llamaherd:answer"'
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
        schema or grammar of SamplingParams, unless the model may also call tools.
      reasoning_effort: Any text, such as low, medium or high; the template's variable
        reasoning_effort. "none": as thinking=False. None: the template's default.
      thinking_budget: Maximum reasoning tokens, >= 0: then the end of reasoning is forced. Has no
        effect on models that do not reason, or whose reasoning has no markers. None: no limit.
      template_kwargs: Additional variables of the template, JSON values by name: at most 65,536
        characters of JSON, numbers in [-10^6, 10^6] (a template may loop up to a number).
        enable_thinking overrides thinking.
      continue_final_message: Whether the answer continues the last message, an assistant message
        without tool calls; the output holds the new text only. False: the answer is a new message.
        None: True if the last message is an assistant message.
      truncation: "auto": while the prompt and max_tokens (at most half of max_len) exceed max_len
        together, the oldest turn after the leading system and developer messages is dropped. A turn
        lasts from a user message to the next; the last turn is kept. "disabled": nothing is
        dropped.

    Raises:
      InvalidRequestError: tool_choice, thinking_budget or truncation has none of these values.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    thinking: bool = True
    reasoning_effort: str | None = None
    thinking_budget: int | None = None
    template_kwargs: Mapping[str, Any] | None = None
    continue_final_message: bool | None = None
    truncation: str = "disabled"

    def __post_init__(self) -> None:
        self._chosen()
        budget = self.thinking_budget
        if budget is not None and (not isinstance(budget, int) or budget < 0):
            raise InvalidRequestError(f"thinking_budget must be a number >= 0; got {budget!r}")
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

    @property
    def calls_tools(self) -> bool:
        """Whether the model may call tools."""
        return bool(self.tools) and self.tool_choice != "none"

    def render(
        self,
        core: _core.BatchEngine,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        answer: Rule | None = None,
    ) -> ChatPrompt:
        """Render a conversation with the model's chat template.

        Args:
          core: Engine of the model.
          messages: OpenAI's format.
          add_generation_prompt: Append the beginning of the assistant's turn.
          answer: Constraint of an answer that calls no tool; of kind json_schema.

        Raises:
          InvalidRequestError: As `BatchEngine.apply_chat_template`.
        """
        tools = self._chosen()
        apply = partial(
            core.apply_chat_template,
            messages_json=_json("messages", list(messages)),
            parallel_tool_calls=bool(self.parallel_tool_calls),
            thinking=self._thinks(),
            template_kwargs_json=_kwargs_json(self._variables()),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=self.continue_final_message,
        )
        # With tools llama.cpp would compile a grammar from the schemas as sent.
        shown = apply(tools_json=_json("tools", tools) if tools else "", tool_choice="none")
        if not tools or not self.calls_tools or not add_generation_prompt:
            return ChatPrompt(shown.text, shown.stop, shown.preserved_tokens, shown.format)
        choice = "auto" if self.tool_choice == "auto" else "required"
        called, schemas = _marked(apply, ToolSchemas(tools), choice)
        prompt = ChatPrompt(shown.text, called.stop, called.preserved_tokens, called.format)
        if called.format is None:
            return prompt
        if answer is not None and choice == "auto":
            must_call, schemas = _marked(apply, ToolSchemas(tools), "required")
            return replace(prompt, rule=_calls_or(answer, must_call, called.format, schemas))
        grammar = called.format.grammar
        if not grammar.gbnf:
            return prompt
        special = frozenset(called.preserved_tokens)
        before = "" if grammar.lazy else grammar.generation_prompt
        rule = Rule("tools", grammar.gbnf, tuple(schemas), special=special, prefix=before)
        return replace(prompt, rule=rule, is_triggered=grammar.lazy)

    def _thinks(self) -> bool:
        asked = (self.template_kwargs or {}).get("enable_thinking", self.thinking)
        return bool(asked) and self.reasoning_effort != "none"

    def _variables(self) -> dict[str, Any]:
        """Variables of the template."""
        variables = dict(self.template_kwargs or {})
        if self.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", self.reasoning_effort)
        return variables


def _marked(
    apply: Callable[..., _core.ChatPrompt], schemas: ToolSchemas, choice: str
) -> tuple[_core.ChatPrompt, list[MarkedSchema]]:
    """A prompt whose grammar has literals in place of schemas, and these schemas."""
    tools, marked = schemas.marked_whole()
    prompt = apply(tools_json=_json("tools", tools), tool_choice=choice)
    if not _holds_all(prompt.format, marked):
        tools, marked = schemas.marked_apart()
        prompt = apply(tools_json=_json("tools", tools), tool_choice=choice)
    return prompt, marked


def _calls_or(
    answer: Rule,
    must_call: _core.ChatPrompt,
    format_: _core.ChatFormat,
    schemas: Sequence[MarkedSchema],
) -> Rule:
    """The constraint of an output that either calls tools or is an answer under a constraint.

    Raises:
      InvalidRequestError: The answer's constraint or the model's format does not allow this.
    """
    if answer.kind != "json_schema":
        raise InvalidRequestError(
            f"tools cannot be combined with {answer.kind}: set tool_choice to none, or omit "
            f"{answer.kind}"
        )
    content = format_.content_grammar(_ANSWER)
    if not content or must_call.format is None:
        raise InvalidRequestError(
            "tools cannot be combined with a JSON schema in this model's format: set tool_choice "
            "to none or required, or omit the schema"
        )
    grammar = must_call.format.grammar
    return Rule(
        "tools",
        grammar.gbnf,
        (*schemas, MarkedSchema(_ANSWER, styled(answer.text))),
        alternatives=(content,),
        special=frozenset(must_call.preserved_tokens),
        prefix=grammar.generation_prompt,
    )


@dataclass(frozen=True)
class ChatPrompt:
    """A rendered conversation.

    Attributes:
      text: Special tokens are written by name.
      stop: Strings that end the assistant's turn.
      preserved_tokens: Special tokens that the parser of the format needs in the output text.
      format: Parser of the model's answer; None: the text is the content.
      rule: Constraint of the output; None: unconstrained.
      is_triggered: The rule applies from a trigger of format.grammar on.
    """

    text: str
    stop: list[str]
    preserved_tokens: list[int]
    format: _core.ChatFormat | None
    rule: Rule | None = None
    is_triggered: bool = False


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
