"""Fuzz: rules are made ready or refused, and walked through, in time and memory."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import corpus, fuzz, mutated
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

# More than a rule takes on a slow machine; only a hang takes longer.
_SECONDS = 120
_CHILD = Path(__file__).parent / "rule_child.py"


class Child:
    """Makes rules ready in a process of its own."""

    def __init__(self) -> None:
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def outcome_of(self, options: dict[str, Any]) -> str:
        if self._process.poll() is not None:
            self._process = self._start()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(options) + "\n")
        stdin.flush()
        ready, _, _ = select.select([stdout], [], [], _SECONDS)
        if not ready:
            self.close()
            pytest.fail(f"it took more than {_SECONDS} s")
        line = stdout.readline()
        assert line, f"the process ended with {self._process.wait()}"
        return str(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


OUTCOMES = ("made", "refused", "failed")
GBNF = ["{3,1}", "{0,2000}", "(", ")", "| ", "root", "[^a]", '""', "<[5]>", ".", "*", "+", "?"]
REGEX = ["{1000}", "(", ")", "|", ".*", "[a-z]?", "\\p{L}", "(?i)", "{0,}", "^", "$", "\\b"]
LARK = ["start", "{1000}", "/.*/", " & ", "~", "expr", "%json {}", "[lazy]", "| ", '"a"']

_KEYWORDS: dict[str, Any] = {
    "type": st.sampled_from(["object", "array", "string", "integer", "number", ["null", "string"]]),
    "enum": st.lists(st.integers() | st.text(max_size=3), max_size=3),
    "const": st.integers() | st.text(max_size=3),
    "minLength": st.integers(0, 10**6),
    "maxLength": st.integers(0, 10**6),
    "minItems": st.integers(0, 10**4),
    "maxItems": st.integers(0, 10**6),
    "minimum": st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    "maximum": st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    "multipleOf": st.integers(1, 10**4) | st.floats(1e-6, 1e6),
    "pattern": st.sampled_from(["^a.{50}b", "(a|b)*c{3,900}$", "\\w+@\\w+", "^[^x]{0,80}$"]),
    "format": st.sampled_from(["date", "uuid", "email", "ipv6", "odd"]),
    "$ref": st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/properties/a"]),
    "required": st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
}


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    several = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            **_KEYWORDS,
            **dict.fromkeys(["properties", "$defs", "patternProperties"], names),
            **dict.fromkeys(["items", "additionalProperties", "not", "if", "then"], inner),
            **dict.fromkeys(["allOf", "anyOf", "oneOf", "prefixItems"], several),
        },
    )


schemas = st.recursive(st.booleans() | st.just({}), _schemas, max_leaves=12)


@fuzz
@given(text=mutated(corpus("grammars"), GBNF))
def test_any_grammar(child: Child, text: str) -> None:
    assert child.outcome_of({"grammar": text}) in OUTCOMES


@fuzz
@given(text=mutated(corpus("regexes"), REGEX))
def test_any_expression(child: Child, text: str) -> None:
    assert child.outcome_of({"regex": text}) in OUTCOMES


@fuzz
@given(text=mutated(corpus("larks"), LARK))
def test_any_lark(child: Child, text: str) -> None:
    assert child.outcome_of({"lark": text}) in OUTCOMES


@fuzz
@given(schema=schemas)
def test_any_schema(child: Child, schema: Any) -> None:
    assert child.outcome_of({"json_schema": schema}) in OUTCOMES
