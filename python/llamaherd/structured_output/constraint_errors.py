"""Sentences and keywords for the error messages of llguidance.

Its messages quote regular expressions, grammars and the parser's state. They go to the log; clients
receive a sentence.
"""

from __future__ import annotations

import logging
import re

_logger = logging.getLogger("llamaherd.structured_output")

SIZE = "size"  # in place of a keyword: a limit is exceeded
UNSATISFIABLE = "unsatisfiable"  # in place of a keyword: no value conforms
UNKNOWN = "schema"  # in place of a keyword: another reason
_MAX_CHARS = 200

# Of messages about a schema: the message, its keywords, and what is said. Groups of the pattern
# replace {0} and {1}.
_SCHEMA_ERRORS: tuple[tuple[re.Pattern[str], tuple[str, ...], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), keywords, sentence)
    for pattern, keywords, sentence in (
        (r"Unknown format: (.{0,100})", ("format",), "the format '{0}' has no grammar"),
        (
            r"oneOf constraints|oneOf not fully",
            ("oneOf",),
            "branches of oneOf may overlap; use anyOf",
        ),
        (
            r"min/maxProperties only supported",
            ("minProperties", "maxProperties"),
            "minProperties and maxProperties need properties that are all required",
        ),
        (
            r"patternProperty regexes",
            ("patternProperties",),
            "patterns of patternProperties may match the same name",
        ),
        (
            r"circular references with sibling keys",
            ("$ref",),
            "a $ref that leads back to itself must have no other keywords beside it",
        ),
        (r"Unsatisfiable schema|is unsatisfiable", (UNSATISFIABLE,), "no value conforms to it"),
        (r"Invalid type: (.{0,100})", ("type",), "the type '{0}' is unknown"),
        (r"^([A-Za-z$]{1,30}) must be (an? [a-z ]{1,40})", ("{0}",), "{0} must be {1}"),
        (r"Expected ([a-z0-9 ]{1,40}) for '(\w{1,30})'", ("{1}",), "{1} must be {0}"),
        (r"for numeric const", ("const",), "a number of const is out of range"),
        (r"lookarounds not", ("pattern",), "a regular expression must have no lookaround"),
        (r"backreferences are", ("pattern",), "a regular expression must have no backreference"),
        (r"too many digits", ("multipleOf",), "a number of multipleOf has too many digits"),
        (
            r"too big \(limit|schema too large|DNF too large|too many (?:states|expressions)|fuel"
            r"|stack level exceeded|Current row has|if regex is empty|precomputation failed"
            r"|TooComplex",
            (SIZE,),
            "it is too large or too ambiguous; simplify it",
        ),
        (r"^panic:|panicked", (UNKNOWN,), "llguidance fails on it; simplify it"),
        (
            r"doesn't satisfy the grammar|NoExtension|stopped",
            (UNKNOWN,),
            "the output cannot be continued",
        ),
        (
            r"Reference segment|Only absolute \$ref|Retriev|Resource '|Pointer '|[Uu]nresolvable"
            r"|Definition not found",
            ("$ref",),
            "a $ref must refer to a place within the schema",
        ),
    )
)
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: \[([^\n]*)\]")
_PLACE = re.compile(r"^at (\d+)\((\d+)\): ")  # line and column of a grammar
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_REGEX_ERROR = re.compile(r"regex parse error:.*?\nerror: ([^\n]*)", re.DOTALL)


def sentence_of(error: str, *, with_place: bool = False) -> str:
    """One sentence on an error of llguidance, without a full stop. The error itself is logged.

    Args:
      with_place: Include the place in the Lark text, which the client wrote.
    """
    _logger.debug("llguidance: %s", error)
    place = _PLACE.match(error)
    if place is None:
        return _sentence_of(error)
    sentence = _sentence_of(error[place.end() :])
    return f"{sentence} at line {place[1]}, column {place[2]}" if with_place else sentence


def _sentence_of(error: str) -> str:
    found = _UNIMPLEMENTED.search(error)
    if found:
        return f"this use of {', '.join(_QUOTED.findall(found[1])[:10])} is not supported"
    parse_error = _REGEX_ERROR.search(error)
    if parse_error:
        return f"a regular expression does not parse: {_cut(parse_error[1])}"
    for pattern, _, sentence in _SCHEMA_ERRORS:
        found = pattern.search(error)
        if found:
            return sentence.format(*found.groups())
    lines = (line.strip() for line in error.splitlines())
    return _cut(
        next((line for line in lines if line and not line.startswith("<")), "unknown error")
    )


def keywords_of(message: str) -> list[str]:
    """The schema keywords that an error or warning of llguidance is about."""
    found = _UNIMPLEMENTED.search(message)
    if found:
        return _QUOTED.findall(found[1])
    if _REGEX_ERROR.search(message):
        return ["pattern"]
    for pattern, keywords, _ in _SCHEMA_ERRORS:
        found = pattern.search(message)
        if found:
            return [keyword.format(*found.groups()) for keyword in keywords]
    return [UNKNOWN]


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."
