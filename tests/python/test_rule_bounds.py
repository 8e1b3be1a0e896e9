"""A rule that would take too long is refused, or its masks end; each case in a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llamaherd import InvalidRequestError, SamplingParams

pytestmark = pytest.mark.slow

# More than each case takes on a slow machine; only a hang takes longer.
_SECONDS = 120
_CHILD = Path(__file__).parent / "rule_child.py"


def _deep(keyword: str, depth: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {keyword: [schema, {"type": ["integer", "string"]}]}
    return schema


def _chain(n: int, link: str, end: str) -> str:
    return "\n".join([*(link.format(i, i + 1) for i in range(n)), end.format(n)])


def _doubled(keyword: str) -> Any:
    defs: Any = {
        f"a{i}": {keyword: [{"$ref": f"#/$defs/a{i + 1}"}, {"$ref": f"#/$defs/a{i + 1}"}]}
        for i in range(30)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**defs, "a30": {"type": "object"}}}


_NAMES = [f"name{i}" for i in range(1500)]
CASES: dict[str, dict[str, Any]] = {
    "optional characters": {"grammar": "root ::= " + "[a-z ]? " * 3000},
    "optional characters 30": {"grammar": "root ::= " + "[a-z ]? " * 30},
    "rules that double": {
        "grammar": "root ::= r0\n" + _chain(40, "r{0} ::= r{1} r{1} | r{1}", "r{0} ::= [a-z]")
    },
    "alternatives": {"grammar": "root ::= " + " | ".join(f'"w{i}" root?' for i in range(3000))},
    "nested counts": {"grammar": "root ::= " + "(" * 60 + "[a-z]" + "){1000}" * 60},
    "a chain of rules": {
        "grammar": "root ::= r0\n" + _chain(3000, 'r{0} ::= r{1} | "(" root', 'r{0} ::= "a"')
    },
    "ambiguity": {"grammar": 'root ::= root root | root root root | [a-z] | ""'},
    "nested counts of an expression": {"regex": "((a{1000}){1000}){1000}"},
    "an expression that backtracks": {"regex": "(.*a.{1000}){3}b"},
    "a long expression": {"regex": "[a-z ]?" * 3000},
    "a chain in Lark": {"lark": "start: r0\n" + _chain(4000, 'r{0}: r{1} | "z"', 'r{0}: "a"')},
    "a chain of terminals in Lark": {
        "lark": "start: R0\n" + _chain(4000, 'R{0}: R{1} | "z"', 'R{0}: "a"')
    },
    "parentheses in Lark": {"lark": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000},
    "intersections in Lark": {
        "lark": "start: A\nA: /(.*a.{30})+/ & /(.*b.{31})+/ & ~/.*c.{29}d.*/"
    },
    "as many intersections in Lark as may be": {
        "lark": "start: A\nA: " + " & ".join(f"/.*a.{{{i}}}b.*/" for i in range(9))
    },
    "properties": {"json_schema": {"properties": {name: {"type": "string"} for name in _NAMES}}},
    "values": {"json_schema": {"enum": [f"value-{i}" for i in range(9000)]}},
    "parts of parts": {"json_schema": _deep("allOf", 30)},
    "options of options": {"json_schema": _deep("anyOf", 30)},
    "references that double": {"json_schema": _doubled("allOf")},
    "references that double, evaluated": {
        "json_schema": {**_doubled("allOf"), "unevaluatedProperties": False}
    },
    "references to many names, evaluated": {
        "json_schema": {
            "$defs": {"a": {"properties": dict.fromkeys(map(str, range(4000)), True)}},
            "anyOf": [{"$ref": "#/$defs/a", "unevaluatedProperties": False}] * 1900,
        }
    },
    "references to many items, evaluated": {
        "json_schema": {
            "$defs": {"a": {"prefixItems": [True] * 4000}},
            "anyOf": [{"$ref": "#/$defs/a", "unevaluatedItems": False}] * 1900,
        }
    },
    "a chain of references": {
        "json_schema": {
            "$ref": "#/$defs/a0",
            "$defs": {
                f"a{i}": {"properties": {"x": {"$ref": f"#/$defs/a{(i + 1) % 2000}"}}}
                for i in range(2000)
            },
        }
    },
    "multiples": {"json_schema": {"type": "integer", "multipleOf": 9973}},
    "many items": {"json_schema": {"type": "array", "minItems": 100_000, "maxItems": 200_000}},
    "long strings": {"json_schema": {"type": "string", "minLength": 10**6, "maxLength": 10**7}},
}


@pytest.mark.parametrize("name", CASES)
def test_every_rule_is_ready_or_refused_in_time(name: str) -> None:
    made = subprocess.run(
        [sys.executable, str(_CHILD)],
        input=json.dumps(CASES[name]) + "\n",
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert json.loads(made.stdout) in ("refused", "failed", "made")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"grammar": "x" * 70_000}, "grammar must have at most 65536 bytes; got 70000"),
        ({"choice": ["a" * 70_000]}, "choice must have at most 65536 bytes"),
        ({"json_schema": {"multipleOf": 999983}}, "least common multiple is at most 10000"),
        ({"json_schema": {"allOf": [{"multipleOf": 997}, {"multipleOf": 9.91}]}}, "multiple is at"),
        ({"json_schema": {"multipleOf": 1e300}}, "least common multiple"),
        ({"json_schema": {"enum": [{"multipleOf": 10**99 + i} for i in range(3000)]}}, "got 1000"),
        ({"json_schema": _deep("allOf", 40)}, "at most 64 levels deep"),
        ({"json_schema": {"enum": list(range(10_001))}}, "at most 10000 JSON values"),
        ({"json_schema": {"const": "a" * 600_000}}, "at most 524288 bytes of JSON"),
        ({"lark": 'start: x\nx: %json {"multipleOf": 999983}'}, "schema of %json must have"),
        (
            {"lark": "start: A\nA: " + " & ".join(["/a/"] * 10)},
            r"at most 8 intersections \(&\); got 9",
        ),
        ({"json_schema": "[" * 100_000}, "not valid JSON"),
    ],
)
def test_what_is_too_large_is_refused_with_its_bound(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        _ = SamplingParams(**rule).rule


def test_what_references_evaluate_is_not_repeated_without_bound() -> None:
    case = CASES["references to many names, evaluated"]
    rule = SamplingParams(**case).rule
    assert rule is not None
    assert len(rule.text) < 2 * len(json.dumps(case["json_schema"]))


def test_intersections_are_counted_outside_literals_and_comments() -> None:
    lark = f'start: A\nA: "{"&" * 20}" | /x{"&" * 20}\\/&&/ & /y/ // {"&" * 20}'
    assert SamplingParams(lark=lark).rule is not None
