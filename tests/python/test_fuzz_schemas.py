"""Fuzz: outputs conform to their schema, or it is refused by a keyword; no tool is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fuzzing import fuzz
from hypothesis import event, given
from hypothesis import strategies as st
from json_walker import schema_guide, tool, tools_guide, walk
from jsonschema import Draft202012Validator
from llamaherd import BatchEngine, EngineConfig, InvalidRequestError
from llamaherd.structured_output.guides import Guide
from llamaherd.structured_output.schemas.schema_form import BY_NAME, COUNTS, LISTS, SINGLE
from referencing.exceptions import Unresolvable
from rule_child import ENDING

_NAMES = st.sampled_from(["a", "ab", "b", "c", "x-1"])
_PATTERNS = st.sampled_from(["^a", "b$", "^[ab]+$", "^x-", ".*", "^(a|c)$", "^(?=.*b)a.*$"])
_ODD = st.sampled_from([None, True, "strin", -1, [], {}, [1], {"a": 1}, ["object", "strin"]])
# In an error, one of these tells what to change.
_TELLING = {
    *(*BY_NAME, *SINGLE, *LISTS, *COUNTS),
    *("type", "enum", "const", "pattern", "format", "required", "$ref", "$dynamicRef"),
    *("uniqueItems", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("dependentRequired", "regular expression", "no value", "too large", "branches"),
}


def _keywords(inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    names_rule = st.fixed_dictionaries(
        {},
        optional={
            "type": st.just("string"),
            "pattern": _PATTERNS,
            "maxLength": st.integers(0, 2),
            "enum": st.lists(_NAMES, max_size=3),
        },
    )
    return {
        "type": st.sampled_from(
            ["object", "object", "array", "string", "integer", "number", ["null", "object"]]
        ),
        "enum": st.lists(st.integers(-3, 3) | _NAMES | st.none(), min_size=1, max_size=3),
        "const": st.integers(-3, 3) | _NAMES | st.none(),
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(0, 4),
        "minItems": st.integers(0, 2),
        "minProperties": st.integers(0, 3),
        "maxProperties": st.integers(0, 3),
        "maxItems": st.integers(0, 3),
        "minimum": st.integers(-5, 5),
        "exclusiveMaximum": st.integers(-5, 50),
        "pattern": _PATTERNS,
        "format": st.sampled_from(["date", "uuid", "int64", "json-pointer"]),
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a", "#/anyOf/0", "#/none"]),
        "required": st.lists(_NAMES, max_size=2, unique=True),
        "properties": st.dictionaries(_NAMES, inner, max_size=3),
        "patternProperties": st.dictionaries(_PATTERNS, inner, max_size=2),
        "additionalProperties": inner | st.just(False),
        "propertyNames": names_rule | st.booleans(),
        "dependentRequired": st.dictionaries(_NAMES, st.lists(_NAMES, max_size=2), max_size=1),
        "unevaluatedProperties": st.booleans(),
        "prefixItems": several,
        "uniqueItems": st.booleans(),
        "description": st.just("x"),
        "default": st.none(),
        "deprecated": st.booleans(),
        **dict.fromkeys(["items", "contains", "not", "if", "then"], inner),
        **dict.fromkeys(["allOf", "anyOf", "oneOf"], several),
        "$defs": st.dictionaries(_NAMES, inner, max_size=2),
    }


@st.composite
def _schema(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    keywords = _keywords(inner)
    common = ["type", "properties", "patternProperties", "additionalProperties", "propertyNames"]
    chosen = st.lists(st.sampled_from(common + sorted(keywords)), max_size=5, unique=True)
    return {keyword: draw(keywords[keyword]) for keyword in draw(chosen)}


def _odd(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(sorted(_TELLING)), _ODD | inner, max_size=3)


schemas = st.recursive(st.booleans() | st.just({}), _schema, max_leaves=6)
objects = _schema(schemas)
malformed = st.recursive(
    st.booleans() | _ODD, lambda inner: _schema(inner) | _odd(inner), max_leaves=10
)
seeds = st.integers(0, 1 << 30)


def _check_outputs(guide: Guide, schema: Any, seed: int, ending: Sequence[int] = (ENDING,)) -> None:
    """Outputs of a guide that end conform to a schema."""
    for i in range(3):
        made = walk(guide, seed + i, ending)
        event(f"walk: {made.end}")
        assert made.end in ("end", "cut"), made
        if made.end == "end":
            assert _is_valid(schema, json.loads(made.text)) is not False, made


def _is_valid(schema: Any, value: Any) -> bool | None:
    """None: the schema is its own part, or refers to none."""
    try:
        return bool(Draft202012Validator(schema).is_valid(value))
    except (RecursionError, Unresolvable):
        return None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the validator's recursion
            raise
        return None


def _made_or_refused_by_name(make: Callable[[], Guide]) -> Guide | None:
    try:
        return make()
    except InvalidRequestError as error:
        text = str(error)
    assert any(word in text for word in _TELLING), text
    assert len(text.splitlines()) == 1
    return None


@fuzz
@given(schema=schemas, seed=seeds)
def test_a_schema_is_refused_by_name_or_obeyed(schema: Any, seed: int) -> None:
    guide = _made_or_refused_by_name(lambda: schema_guide(schema))
    event("refused" if guide is None else "made")
    if guide is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_outputs(guide, schema, seed)


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[BatchEngine]:
    config = EngineConfig(n_ctx=64, max_seqs=1, n_threads=1, warmup=False)
    with BatchEngine(model_path, config, progress=False) as engine:
        yield engine


@pytest.mark.slow
@fuzz
@given(schema=objects, seed=seeds)
def test_outputs_in_a_models_tokens_reach_no_dead_end(
    engine: BatchEngine, schema: Any, seed: int
) -> None:
    made_by = engine._table.guides
    ending = engine._core.end_of_generation()
    guide = _made_or_refused_by_name(lambda: schema_guide(schema, made_by))
    if guide is not None:
        _check_outputs(guide, schema, seed, ending)
    guide = tools_guide(tool(schema), made_by=made_by)
    made = walk(guide, seed, ending)
    assert made.end in ("end", "cut"), made


@fuzz
@given(parameters=objects, seed=seeds)
def test_a_tool_is_never_refused(parameters: Any, seed: int) -> None:
    guide = tools_guide(tool(parameters))
    event(f"unenforced: {sorted({keyword for _, keyword in guide.unenforced})}")
    if not guide.unenforced:
        _check_outputs(guide, {"type": "object", **parameters}, seed)
        return
    made = walk(guide, seed)
    assert made.end in ("end", "cut"), made
    if made.end == "end":
        assert isinstance(json.loads(made.text), dict)


@fuzz
@given(parameters=objects)
def test_a_tool_with_arguments_apart_is_never_refused(parameters: Any) -> None:
    assert tools_guide(tool(parameters), apart=True).first_mask


@fuzz
@given(parameters=malformed, strict=st.booleans())
def test_a_malformed_schema_is_refused_by_name_only_if_strict(
    parameters: Any, strict: bool
) -> None:
    if not isinstance(parameters, dict):
        parameters = {"properties": {"a": parameters}}
    for apart in (False, True):
        make = partial(tools_guide, tool(parameters, strict=strict), apart=apart)
        assert _made_or_refused_by_name(make) is not None or strict


def test_a_strict_tool_is_refused_by_the_keyword() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    assert tools_guide(tool(parameters)).unenforced == (("f", "uniqueItems"),)
    with pytest.raises(InvalidRequestError, match=r"tool 'f' .* uniqueItems"):
        tools_guide(tool(parameters, strict=True))
