"""Replaces the schemas of tools that llguidance cannot enforce."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from llamaherd._core import InvalidRequestError
from llamaherd.structured_output.constraint_errors import (
    SIZE,
    UNKNOWN,
    UNSATISFIABLE,
    keywords_of,
    sentence_of,
)
from llamaherd.structured_output.rule import MarkedSchema, Rule
from llamaherd.structured_output.schemas.schema_form import without_keywords

if TYPE_CHECKING:
    from llguidance import LLParserLimits

_MAX_TRIES = 6  # of compiling a schema, each with fewer keywords
_MAX_REMEMBERED = 10_000
_logger = logging.getLogger("llamaherd.structured_output")


def enforceable(rule: Rule, limits: LLParserLimits) -> Rule:
    """Remove keywords that do not compile, or replace the schema, and note what is not enforced.

    Raises:
      InvalidRequestError: A schema that must be enforced does not compile.
    """
    return replace(rule, schemas=tuple(_checked(rule.kind, s, limits) for s in rule.schemas))


def _checked(kind: str, schema: MarkedSchema, limits: LLParserLimits) -> MarkedSchema:
    from llguidance import LLMatcher

    unenforced = set(schema.unenforced)
    text = schema.text
    for _ in range(_MAX_TRIES):
        grammar = LLMatcher.grammar_from_json_schema(text)
        failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=limits)
        keywords = {keyword for message in messages for keyword in keywords_of(message)}
        if failed and not schema.otherwise:
            raise refusal(kind if schema.tool else "json_schema", schema.tool, messages[0])
        unenforced |= keywords
        if not failed:
            return replace(schema, text=text, unenforced=tuple(sorted(unenforced)))
        if keywords & {SIZE, UNSATISFIABLE, UNKNOWN}:
            break
        text = json.dumps(without_keywords(json.loads(text), keywords))
    return replace(schema, text=schema.otherwise, unenforced=tuple(sorted(unenforced)))


def reduced(rule: Rule, compiles: Callable[[MarkedSchema], bool]) -> Rule | None:
    """Replace the schemas that do not compile alone; if each does, the larger half of them.

    Args:
      rule: A rule that does not compile.
      compiles: Whether a schema compiles alone.

    Returns:
      The new rule; None: nothing is left to replace.
    """
    left = [s for s in rule.schemas if s.otherwise and s.text != s.otherwise]
    bad = [schema for schema in left if not compiles(schema)]
    if not bad:
        left.sort(key=lambda schema: len(schema.text), reverse=True)
        bad = left[: (len(left) + 1) // 2]
    if not bad:
        return None
    marks = {schema.mark for schema in bad}
    return replace(
        rule,
        schemas=tuple(
            replace(s, text=s.otherwise, unenforced=(*s.unenforced, SIZE)) if s.mark in marks else s
            for s in rule.schemas
        ),
    )


def refusal(kind: str, tool: str, error: str) -> InvalidRequestError:
    """The error for a constraint that llguidance does not compile."""
    if tool:
        return InvalidRequestError(
            f"the parameters of tool {tool!r} must be enforced (strict: true), but cannot be: "
            f"{sentence_of(error)}"
        )
    sentence = sentence_of(error, with_place=kind == "lark")
    return InvalidRequestError(f"{kind} cannot be used: {sentence}")


class UnenforcedLog:
    """Logs the keywords that are not enforced, once for each tool. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()

    def tell(self, unenforced: Iterable[tuple[str, str]]) -> None:
        """Log pairs of tool and keyword that have not been logged yet."""
        by_tool: dict[str, list[str]] = {}
        for tool, keyword in unenforced:
            by_tool.setdefault(tool, []).append(keyword)
        for tool, keywords in by_tool.items():
            keyword = ", ".join(keywords)
            if self._is_new((tool, keyword)):
                _logger.warning(
                    "the schema of a tool is not fully enforced",
                    extra={"tool": tool, "keyword": keyword},
                )

    def _is_new(self, told: tuple[str, str]) -> bool:
        with self._lock:
            is_new = told not in self._told
            self._told[told] = None
            self._told.move_to_end(told)
            if len(self._told) > _MAX_REMEMBERED:
                self._told.popitem(last=False)
        return is_new


unenforced_log = UnenforcedLog()
