"""Output constraints: JSON schema, regular expression, choice or grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamaherd._core import InvalidRequestError
from llamaherd.structured_output import json_schema

# Options of SamplingParams that are mutually exclusive.
KINDS = ("json_schema", "json_object", "regex", "choice", "lark", "grammar")

MAX_BYTES = 64 * 1024  # except for schemas

# The format of json.dumps(): with free whitespace, small models generate blanks without end.
JSON_STYLE: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
# Number of & in Lark: llguidance's memory use grows exponentially with it.
MAX_INTERSECTIONS = 8

_JSON_IN_LARK = re.compile(r"%json\b\s*")
_LARK_LITERAL_OR_AND = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/(?:\\.|[^/\\\n])+/|&')


@dataclass(frozen=True)
class MarkedSchema:
    """A JSON schema that replaces a literal of a grammar.

    Attributes:
      mark: The literal.
      text: The schema, as JSON.
      tool: Name of the tool whose arguments the schema describes; empty: none.
      otherwise: The schema that replaces `text` if llguidance cannot enforce it; empty: the rule is
        refused then.
      unenforced: Keywords of the tool's schema that `text` does not enforce.
    """

    mark: str
    text: str
    tool: str = ""
    otherwise: str = ""
    unenforced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """An output constraint.

    Attributes:
      kind: json_schema, regex, lark, grammar or tools; the last two are GBNF.
      text: The constraint in the language of its kind.
      schemas: For grammars: the schemas that replace literals.
      alternatives: For grammars: further grammars, one of which the text may match instead.
      special: For grammars: special tokens that literals may match by name.
      prefix: Text at the end of the prompt that is part of the constrained text.
    """

    kind: str
    text: str
    schemas: tuple[MarkedSchema, ...] = ()
    alternatives: tuple[str, ...] = ()
    special: frozenset[int] = frozenset()
    prefix: str = ""

    @property
    def n_chars(self) -> int:
        """Characters of the grammars, the prefix and the schemas."""
        schemas = (schema.text for schema in self.schemas)
        return sum(map(len, (self.text, *self.alternatives, self.prefix, *schemas)))


def styled(schema: str, *, lenient: bool = False) -> str:
    """A JSON schema with the style of output, for use in a grammar.

    Args:
      schema: An object or a bool, as JSON.
      lenient: Ignore unsupported keywords.
    """
    value = json.loads(schema)
    keywords = value if isinstance(value, dict) else {} if value else {"enum": []}
    return json.dumps({**keywords, "x-guidance": {**JSON_STYLE, "lenient": lenient}})


def rule_of(options: Mapping[str, Any]) -> Rule | None:
    """The output constraint set in SamplingParams, given as options by name; None: unconstrained.

    Raises:
      InvalidRequestError: Several are set, or one is invalid.
      TypeError: One has the wrong type.
    """
    off = {"json_object": False}
    given = [kind for kind in KINDS if options[kind] is not off.get(kind)]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequestError(f"only one of {', '.join(KINDS)} may be set; got {given}")
    kind, value = given[0], options[given[0]]
    if kind == "json_object":
        if value is not True:  # False counts as not set
            raise TypeError(f"json_object must be a bool; got {value!r}")
        return Rule("json_schema", '{"type": "object"}')
    if kind == "json_schema":
        return Rule(kind, _schema_text(value))
    if kind == "choice":
        value = _lark_choice(value)
    elif not isinstance(value, str):
        raise TypeError(f"{kind} must be a str; got {value!r}")
    n_bytes = len(value.encode(errors="surrogatepass"))
    if n_bytes > MAX_BYTES:
        raise InvalidRequestError(f"{kind} must have at most {MAX_BYTES} bytes; got {n_bytes}")
    if kind == "lark":
        _require_usable_schemas(value)
        _require_few_intersections(value)
    return Rule("lark" if kind == "choice" else kind, value)


def _schema_text(schema: Any) -> str:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"json_schema is not valid JSON: {error}") from None
    if not isinstance(schema, Mapping | bool):
        raise TypeError(f"json_schema must be a mapping, a bool or their JSON; got {schema!r}")
    return json_schema.to_text("json_schema", schema)


def _require_usable_schemas(lark: str) -> None:
    for found in _JSON_IN_LARK.finditer(lark):
        try:
            schema, _ = json.JSONDecoder().raw_decode(lark, found.end())
        except (ValueError, RecursionError):
            continue  # llguidance reports the error and its place
        json_schema.require_usable("the schema of %json", schema)


def _require_few_intersections(lark: str) -> None:
    n = _LARK_LITERAL_OR_AND.findall(lark).count("&")
    if n > MAX_INTERSECTIONS:
        raise InvalidRequestError(
            f"lark must contain at most {MAX_INTERSECTIONS} intersections (&); got {n}"
        )


def _lark_choice(choices: Any) -> str:
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise TypeError(f"choice must be a sequence of str; got {choices!r}")
    if not choices or not all(isinstance(text, str) and text for text in choices):
        raise InvalidRequestError(f"choice must be a list of non-empty texts; got {choices!r}")
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choices)
