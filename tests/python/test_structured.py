"""Output that obeys a schema, an expression or a grammar, from the real model."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llamaherd import LLM, BatchEngine, FinishReason, InvalidRequestError, SamplingParams
from llamaherd.structured_output import token_masks
from llamaherd.structured_output.json_schema import simplify

pytestmark = pytest.mark.slow

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "Tell me about a person."}]


def draw(engine: BatchEngine, n: int = 6, max_tokens: int = 80, **rule: Any) -> list[str]:
    """Texts of outputs that ended by themselves."""
    params = SamplingParams(n=n, max_tokens=max_tokens, seed=1, **rule)
    result = engine.submit(MESSAGES, params).result(timeout=120)
    choices = result.choices or (result,)
    assert not any(choice.error for choice in choices)
    return [c.text for c in choices if c.finish_reason is FinishReason.STOP]


def test_json_obeys_its_schema(engine: BatchEngine) -> None:
    texts = draw(engine, json_schema=PERSON)
    assert texts
    for text in texts:
        Draft202012Validator(PERSON).validate(json.loads(text))
    again = draw(engine, json_schema=json.dumps(PERSON))
    assert again == texts


def test_any_object(engine: BatchEngine) -> None:
    for text in draw(engine, json_object=True):
        assert isinstance(json.loads(text), dict)


def test_expressions_choices_and_grammars(engine: BatchEngine) -> None:
    for text in draw(engine, regex=r"[A-Z][a-z]{2,6}, [0-9]{4}"):
        assert re.fullmatch(r"[A-Z][a-z]{2,6}, [0-9]{4}", text)
    assert set(draw(engine, choice=['yes "indeed"', "no\n", "größer"])) <= {
        'yes "indeed"',
        "no\n",
        "größer",
    }
    for text in draw(engine, lark='start: "a"+ "b"'):
        assert re.fullmatch("a+b", text)
    for text in draw(engine, grammar='root ::= "ok " [0-9]{1,3} "!" | "über"'):
        assert re.fullmatch(r"ok [0-9]{1,3}!|über", text)


def test_the_same_seed_gives_the_same_text_beside_others(engine: BatchEngine) -> None:
    params = SamplingParams(max_tokens=40, seed=5, regex="([a-z]+ ){3,8}[.]", temperature=0)
    alone = engine.submit(MESSAGES, params).result()
    beside = [engine.submit(MESSAGES, SamplingParams(max_tokens=40, seed=i)) for i in range(3)]
    together = engine.submit(MESSAGES, params).result()
    assert together.token_ids == alone.token_ids
    assert all(stream.result().finish_reason is not FinishReason.ERROR for stream in beside)


def test_log_probabilities_are_the_models_own(engine: BatchEngine) -> None:
    params = SamplingParams(max_tokens=8, seed=5, choice=["zzz"], logprobs=3)
    result = engine.submit(MESSAGES, params).result()
    assert result.text == "zzz"
    assert result.logprobs[0].logprob < -5
    assert result.logprobs[0].token_id not in [token for token, _ in result.logprobs[0].top]


def test_a_rule_that_cannot_end_is_cut_by_max_tokens(engine: BatchEngine) -> None:
    params = SamplingParams(max_tokens=7, regex="a{100}")
    result = engine.submit(MESSAGES, params).result()
    assert result.finish_reason is FinishReason.LENGTH
    assert result.usage.completion_tokens == 7


def test_no_way_on_ends_that_request_alone(engine: BatchEngine) -> None:
    biased = {token: -float("inf") for token in range(engine.model_info()["n_vocab"])}
    with pytest.raises(InvalidRequestError, match="-inf"):
        SamplingParams(logit_bias={1: float("inf")})
    bad = engine.submit(MESSAGES, SamplingParams(choice=["x"], logit_bias=biased, max_tokens=3))
    good = engine.submit(MESSAGES, SamplingParams(max_tokens=3, ignore_eos=True))
    assert good.result().finish_reason is FinishReason.LENGTH
    assert bad.result().finish_reason is FinishReason.ERROR
    assert "no allowed token" in bad.result().error


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"grammar": 'root ::= "a" ~ "b"'}, r"line 1, column 14: '~ \"b\"'"),
        ({"grammar": "root ::= x\nx ::= [0-9"}, "grammar does not parse"),
        ({"grammar": "root ::= x"}, "rule x is used but not defined"),
        ({"grammar": 'rot ::= "a"'}, "no rule named root"),
        ({"grammar": 'root ::= "a\0"'}, "zero byte"),
        ({"regex": "(a"}, "unclosed group"),
        ({"lark": "start: nothing"}, 'unknown name: "nothing"'),
        ({"json_schema": {"not": {"type": "integer"}}}, "this use of not is not supported"),
        ({"json_schema": {"type": "strin"}}, "strin"),
        ({"json_schema": False}, "allows no value"),
        ({"json_schema": "{"}, "not valid JSON"),
        ({"json_schema": {"const": float}}, "must hold JSON values"),
        ({"choice": []}, "choice must be a list of non-empty texts"),
        ({"choice": ["a", ""]}, "choice must be a list of non-empty texts"),
        ({"choice": ["a"], "regex": "b"}, "only one of"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_rules_that_cannot_be_used_are_refused(
    engine: BatchEngine, rule: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        engine.check(SamplingParams(**rule))


@pytest.mark.parametrize(
    "rule", [{"regex": 5}, {"choice": "abc"}, {"json_schema": 5}, {"json_object": 1}]
)
def test_rules_of_the_wrong_type(rule: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        SamplingParams(**rule)


def test_generate_refuses_one_and_runs_the_rest(model_path: Any) -> None:
    with LLM(model_path, progress=False) as llm:
        params = [SamplingParams(max_tokens=9, choice=["a", "b"]), SamplingParams(regex="(")]
        good, bad = llm.generate(["x", "y"], params)
        assert good.text in ("a", "b")
        assert bad.finish_reason is FinishReason.ERROR
        assert "regex" in bad.error
        metrics = llm.engine.metrics()
        assert metrics.mask_wait_ns >= 0


def test_unthreaded_engines_have_their_masks_in_time(model_path: Any) -> None:
    with BatchEngine(model_path, threaded=False, progress=False) as engine:
        stream = engine.submit(MESSAGES, SamplingParams(regex="[a-c]{5}", max_tokens=20))
        while engine.step():
            pass
        assert re.fullmatch("[a-c]{5}", stream.result().text)
        assert engine.metrics().n_mask_waits == 0


class Gate:
    """What blocks calls of a function until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        inner = getattr(owner, name)

        def blocked(*arguments: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(120)
            return inner(*arguments)

        monkeypatch.setattr(owner, name, blocked)


FEW = SamplingParams(max_tokens=3, temperature=0)
OBEYING = SamplingParams(regex="[a-c]{5}", max_tokens=20)


def test_a_mask_that_takes_long_delays_its_own_request_only(
    model_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchEngine(model_path, progress=False) as engine:
        gate = Gate(monkeypatch, token_masks, "mask_of")
        slow, cancelled = (engine.submit(MESSAGES, OBEYING) for _ in range(2))
        assert gate.reached.wait(120)
        assert engine.submit(MESSAGES, FEW).result(timeout=120).usage.completion_tokens == 3
        cancelled.cancel()
        assert cancelled.result(timeout=120).finish_reason is FinishReason.CANCELLED
        assert not slow.finished
        gate.opened.set()
        assert re.fullmatch("[a-c]{5}", slow.result(timeout=120).text)


def test_a_mask_made_by_the_caller_of_step_delays_no_submit(
    model_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        while engine.step():
            pass

    with BatchEngine(model_path, threaded=False, progress=False) as engine:
        gate = Gate(monkeypatch, token_masks, "mask_of")
        slow = engine.submit(MESSAGES, OBEYING)
        stepping = threading.Thread(target=run)
        stepping.start()
        assert gate.reached.wait(120)
        others: list[Any] = []
        submitting = threading.Thread(target=lambda: others.append(engine.submit(MESSAGES, FEW)))
        submitting.start()
        submitting.join(120)
        assert others  # while the mask is still being made
        others[0].cancel()
        gate.opened.set()
        stepping.join(120)
        run()
        assert re.fullmatch("[a-c]{5}", slow.result(timeout=120).text)
        assert others[0].result(timeout=120).finish_reason is FinishReason.CANCELLED


def test_a_rule_that_takes_long_to_compile_delays_no_submit(
    model_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchEngine(model_path, progress=False) as engine:
        gate = Gate(monkeypatch, engine._table.guides, "_compile")
        slow: list[Any] = []
        submitting = threading.Thread(target=lambda: slow.append(engine.submit(MESSAGES, OBEYING)))
        submitting.start()
        assert gate.reached.wait(120)
        assert engine.submit(MESSAGES, FEW).result(timeout=120).usage.completion_tokens == 3
        assert not slow
        gate.opened.set()
        submitting.join(120)
        assert re.fullmatch("[a-c]{5}", slow[0].result(timeout=120).text)


def test_closing_cancels_what_must_obey(model_path: Any) -> None:
    for _ in range(4):
        with BatchEngine(model_path, progress=False) as engine:
            streams = [
                engine.submit(MESSAGES, SamplingParams(regex="[a-z ]{300}", max_tokens=300))
                for _ in range(8)
            ]
            next(iter(streams[0]))
        for stream in streams:
            assert stream.result(timeout=30).finish_reason is FinishReason.CANCELLED


SUITE_SAMPLE: list[tuple[Any, list[Any], list[Any]]] = [
    ({"maxItems": 2.0}, [[1, 2], "x"], [[1, 2, 3]]),
    ({"if": {"const": 1}}, [1, 2], []),
    ({"then": {"const": 1}}, [1, 2], []),
    ({"if": True, "then": {"const": 1}, "else": {"const": 2}}, [1], [2]),
    ({"minContains": 3}, [[]], []),
    ({"contains": {}, "maxContains": 1}, [[1], {}], [[], [1, 2]]),
    ({"propertyNames": {"maxLength": 3}}, [{"abc": 1}, {}, 3], [{"abcd": 1}]),
    ({"propertyNames": {"enum": ["a"]}}, [{"a": 1}], [{"b": 1}]),
    ({"propertyNames": False}, [{}, 1], [{"a": 1}]),
    ({"dependentRequired": {"a": ["b"]}}, [{}, {"a": 1, "b": 1}, {"b": 1}, 2], [{"a": 1}]),
    (
        {"dependentSchemas": {"a": {"maxProperties": 1}}},
        [{"a": 1}, {"b": 1, "c": 1}],
        [{"a": 1, "b": 1}],
    ),
    ({"not": {"not": {"type": "string"}}}, ["a"], [1]),
    ({"properties": {"a": {"not": {}}}}, [{"b": 1}], [{"a": 1}]),
    ({"oneOf": [False, {"type": "string"}]}, ["a"], [1]),
    (
        {
            "properties": {"a": {}},
            "allOf": [{"properties": {"b": {}}}],
            "unevaluatedProperties": False,
        },
        [{"a": 1, "b": 2}, {}],
        [{"c": 1}],
    ),
    (
        {
            "$defs": {"x": {"prefixItems": [{}, {"type": "string"}]}},
            "$ref": "#/$defs/x",
            "unevaluatedItems": False,
        },
        [[1, "a"], [1]],
        [[1, "a", 2], [1, 2]],
    ),
    (
        {"propertyNames": {"maxLength": 1}, "unevaluatedProperties": {"type": "number"}},
        [{"a": 1}],
        [{"a": ""}],
    ),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), SUITE_SAMPLE)
def test_simplified_schemas_mean_the_same(
    schema: Any, valid: list[Any], invalid: list[Any]
) -> None:
    simple = simplify(schema)
    for judge in (Draft202012Validator(schema), Draft202012Validator(simple)):
        assert all(judge.is_valid(value) for value in valid)
        assert not any(judge.is_valid(value) for value in invalid)


_NAMES = st.sampled_from(["a", "b", "cc"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "xyz"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=6,
)


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer"]),
            "properties": st.dictionaries(_NAMES, inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "c$"]), inner, max_size=1),
            "additionalProperties": inner,
            "propertyNames": st.sampled_from(
                [True, False, {}, {"maxLength": 1}, {"pattern": "^a"}, {"enum": [1, "b"]}]
            ),
            "required": st.lists(_NAMES, max_size=2, unique=True),
            "dependentRequired": st.dictionaries(_NAMES, st.lists(_NAMES, max_size=2), max_size=1),
            "dependentSchemas": st.dictionaries(_NAMES, inner, max_size=1),
            "unevaluatedProperties": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "items": inner,
            "contains": inner,
            "minContains": st.sampled_from([0, 1, 2.0]),
            "maxContains": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "unevaluatedItems": inner,
            "maxItems": st.sampled_from([1, 2.0]),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
        },
    )


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    schema=st.recursive(st.booleans() | st.just({}), _schemas, max_leaves=5),
    values=st.lists(_VALUES, min_size=1, max_size=8),
)
def test_simplifying_changes_no_verdict(schema: Any, values: list[Any]) -> None:
    simple = simplify(schema)
    # It will be refused, and what else was rewritten may have been what is evaluated.
    assume("unevaluated" not in json.dumps(simple))
    before, after = Draft202012Validator(schema), Draft202012Validator(simple)
    for value in values:
        assert before.is_valid(value) == after.is_valid(value), (schema, simple, value)
