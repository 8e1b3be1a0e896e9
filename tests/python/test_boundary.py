"""The public names: documented, frozen, and strict about types and ranges."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import os
import pickle
import textwrap
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import llamaherd
import numpy as np
import pytest
from llamaherd import BatchEngine, EngineConfig, InvalidRequestError, SamplingParams, _core
from llamaherd.structured_output import rule

ALL_SAMPLING: dict[str, Any] = {
    "max_tokens": 7,
    "min_tokens": 2,
    "temperature": 0.5,
    "top_k": 40,
    "top_p": 0.75,
    "min_p": 0.125,
    "typical_p": 0.25,
    "infill": True,
    "repetition_penalty": 1.5,
    "frequency_penalty": -0.5,
    "presence_penalty": 0.5,
    "logit_bias": {5: -1.5},
    "seed": 2**64 - 1,
    "ignore_eos": True,
    "stop_token_ids": (3, 4),
    "stop": ("a", "b"),
    "echo": True,
    "logprobs": 3,
    "prompt_logprobs": 0,
    "prompt_logprobs_from": 2,
    "n": 2,
    "best_of": 4,
    "prompt_lookup": False,
}
ALL_ENGINE: dict[str, Any] = {
    "preset": "low_latency",
    "n_ctx": 512,
    "max_len": 128,
    "max_seqs": 3,
    "token_budget": 256,
    "n_ubatch": 128,
    "target_itl_ms": 40.5,
    "max_queued": 7,
    "max_queued_tokens": 9000,
    "aging_s": 12.5,
    "tenant_weights": {"acme": 2.0},
    "n_threads": 2,
    "poll": 7,
    "n_gpu_layers": 0,
    "devices": ("CPU",),
    "tensor_split": (0.5, 0.5),
    "split_mode": "row",
    "main_gpu": 1,
    "use_mmap": False,
    "use_mlock": True,
    "kv_type": "f32",
    "chat_template": "{{ messages }}",
    "cpu_kernels": "reference",
    "deterministic": True,
    "prompt_lookup": False,
    "warmup": False,
    "prefix_cache": False,
    "cache_ram_mib": 64,
    "cache_dir": "somewhere",
    "cache_disk_mib": 100,
}
# Of these one may be set, and the core gets what comes of them.
STRUCTURED: dict[str, Any] = {
    "json_schema": {"type": "string"},
    "json_object": True,
    "regex": "a+",
    "choice": ["a", "b"],
    "lark": 'start: "a"',
    "grammar": 'root ::= "a"',
}
OPTIONS = [(SamplingParams, ALL_SAMPLING), (EngineConfig, ALL_ENGINE)]
CORE_OF: dict[type, type] = {
    SamplingParams: _core.SamplingParams,
    EngineConfig: _core.EngineConfig,
}


def public_callables() -> Iterator[tuple[str, Any]]:
    """Functions, classes and the methods and properties of classes, as (name, object)."""
    for name in llamaherd.__all__:
        thing = getattr(llamaherd, name)
        if not callable(thing):
            continue
        yield name, thing
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            is_python = isinstance(value, property) and inspect.isfunction(value.fget)
            if not member.startswith("_") and (callable(value) or is_python):
                yield f"{name}.{member}", value.fget if is_python else value


def raises(function: Any) -> bool:
    """Whether a Python function's own body raises."""
    if not inspect.isfunction(function):
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(
        (isinstance(node, ast.Raise) and node.exc is not None)
        or (isinstance(node, ast.Attribute) and node.attr == "_require_own_process")
        for node in ast.walk(tree)
    )


def as_core(value: object) -> object:
    """The core's form of a dataclass field's value."""
    if isinstance(value, dict):
        return list(value.items())
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("name", "thing"), list(public_callables()))
def test_every_public_name_is_documented(name: str, thing: object) -> None:
    assert inspect.getdoc(thing), f"{name} has no docstring"


@pytest.mark.parametrize(
    ("name", "thing"), [(name, thing) for name, thing in public_callables() if raises(thing)]
)
def test_what_raises_says_so(name: str, thing: object) -> None:
    doc = inspect.getdoc(thing) or ""
    assert "Raises:" in doc or doc.startswith("As `"), f"{name} does not say what it raises"


@pytest.mark.parametrize("name", ["submit", "step", "tokenize", "detokenize"])
def test_what_raises_in_the_core_says_so(name: str) -> None:
    assert "Raises:" in (inspect.getdoc(getattr(BatchEngine, name)) or "")


@pytest.mark.parametrize(("cls", "values"), OPTIONS)
def test_examples_cover_every_option_with_another_value_than_the_default(
    cls: Any, values: dict[str, Any]
) -> None:
    names = [field.name for field in dataclasses.fields(cls)]
    assert list(values) == [name for name in names if name not in STRUCTURED]
    default = cls()
    assert not [name for name, value in values.items() if getattr(default, name) == value]


@pytest.mark.parametrize(("cls", "values"), OPTIONS)
def test_every_option_reaches_the_core(cls: Any, values: dict[str, Any]) -> None:
    core = cls(**values)._to_core()
    for name, value in values.items():
        assert getattr(core, name) == as_core(value), name


@pytest.mark.parametrize("cls", list(CORE_OF))
def test_defaults_are_the_cores(cls: Any) -> None:
    core = CORE_OF[cls]()
    fields = [field for field in dataclasses.fields(cls) if field.name not in STRUCTURED]
    names = {field.name for field in fields}
    # A chat format says which tokens are preserved.
    others = {"validate", "preserved_tokens"}
    assert names == {n for n in dir(core) if not n.startswith("_")} - others
    for field in fields:
        is_mapping = str(field.type).startswith("Mapping")
        default = [] if is_mapping else as_core(field.default)
        assert getattr(core, field.name) == default, field.name


@pytest.mark.parametrize(("cls", "values"), OPTIONS)
def test_options_are_values(cls: Any, values: dict[str, Any]) -> None:
    options = cls(**values)
    assert eval(repr(options)) == options
    assert eval(repr(cls())) == cls()
    assert pickle.loads(pickle.dumps(options)) == options
    assert options == cls(**values)
    assert options != cls()
    for name, value in values.items():
        changed = dataclasses.replace(cls(), **{name: value})
        assert getattr(changed, name) == value
        assert changed != cls()


@pytest.mark.parametrize("name", STRUCTURED)
def test_rules_of_the_output_are_values(name: str) -> None:
    assert tuple(STRUCTURED) == rule.KINDS
    params = SamplingParams(**{name: STRUCTURED[name]})
    assert params.rule is not None
    assert SamplingParams().rule is None
    assert eval(repr(params)) == params
    assert pickle.loads(pickle.dumps(params)) == params
    assert params != SamplingParams()


@pytest.mark.parametrize("cls", list(CORE_OF))
def test_options_are_frozen_and_keyword_only(cls: Any) -> None:
    for field in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cls(), field.name, field.default)
    with pytest.raises(TypeError):
        cls(5)


@pytest.mark.parametrize("cls", list(CORE_OF))
def test_unknown_options_are_type_errors(cls: Any) -> None:
    with pytest.raises(TypeError, match="max_token_count"):
        cls(max_token_count=5)


def test_replacing_checks_the_new_value() -> None:
    with pytest.raises(InvalidRequestError, match="temperature"):
        dataclasses.replace(SamplingParams(), temperature=-1.0)


WRONG_TYPES: list[tuple[type, str, Any]] = [
    *((SamplingParams, name, "many") for name in ALL_SAMPLING if name not in {"stop"}),
    *((EngineConfig, name, 1.5) for name in ALL_ENGINE if name not in ("target_itl_ms", "aging_s")),
    (EngineConfig, "target_itl_ms", "soon"),
    (EngineConfig, "target_itl_ms", True),
    *((SamplingParams, "max_tokens", value) for value in (5.0, True, np.float32(5.7))),
    (SamplingParams, "max_tokens", Decimal("5.7")),
    (SamplingParams, "temperature", None),
    (SamplingParams, "temperature", True),
    (SamplingParams, "min_tokens", None),
    (SamplingParams, "ignore_eos", 1),
    (SamplingParams, "echo", None),
    (SamplingParams, "stop", 5),
    (SamplingParams, "stop", b"x"),
    (SamplingParams, "stop", [b"x"]),
    (SamplingParams, "stop_token_ids", [1.5]),
    (SamplingParams, "stop_token_ids", [True]),
    (SamplingParams, "stop_token_ids", np.array([1.0])),
    (SamplingParams, "logit_bias", {1.5: 1.0}),
    (SamplingParams, "logit_bias", {"1": 1.0}),
    (SamplingParams, "logit_bias", {1: "x"}),
    (EngineConfig, "preset", None),
    (EngineConfig, "kv_type", b"f16"),
    (EngineConfig, "devices", "CPU"),
    (EngineConfig, "devices", [b"CPU"]),
]


@pytest.mark.parametrize(("cls", "name", "value"), WRONG_TYPES)
def test_wrong_types_are_type_errors_that_name_the_option(
    cls: Any, name: str, value: object
) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be "):
        cls(**{name: value})


OUT_OF_RANGE: list[tuple[type, str, Any, str]] = [
    (SamplingParams, "max_tokens", 0, ">= 1; got 0"),
    (SamplingParams, "max_tokens", -2, ">= 1; got -2"),
    (SamplingParams, "max_tokens", 2**40, "got 1099511627776"),
    (SamplingParams, "min_tokens", -1, ">= 0; got -1"),
    (SamplingParams, "temperature", -0.5, "in [0, 100]; got -0.5"),
    (SamplingParams, "temperature", 101, "in [0, 100]; got 101"),
    (SamplingParams, "temperature", math.nan, "in [0, 100]; got nan"),
    (SamplingParams, "temperature", math.inf, "in [0, 100]; got inf"),
    (SamplingParams, "top_k", -2, ">= 0; got -2"),
    (SamplingParams, "top_p", -0.5, "in (0, 1]; got -0.5"),
    (SamplingParams, "top_p", 1.5, "in (0, 1]; got 1.5"),
    (SamplingParams, "min_p", -0.5, "in [0, 1]; got -0.5"),
    (SamplingParams, "min_p", math.nan, "in [0, 1]; got nan"),
    (SamplingParams, "typical_p", 0.0, "in (0, 1]; got 0"),
    (SamplingParams, "repetition_penalty", 0.0, "in [0.01, 100]; got 0"),
    (SamplingParams, "frequency_penalty", 2.5, "in [-2, 2]; got 2.5"),
    (SamplingParams, "presence_penalty", -2.5, "in [-2, 2]; got -2.5"),
    (SamplingParams, "logit_bias", {7: math.nan}, "for token 7; got nan"),
    (SamplingParams, "logit_bias", {7: math.inf}, "for token 7; got inf"),
    (SamplingParams, "seed", -2, "in [0, 2**64); got -2"),
    (SamplingParams, "seed", 2**64, "in [0, 2**64); got 18446744073709551616"),
    (SamplingParams, "stop", ["a"] * 129, "at most 128 strings; got 129"),
    (SamplingParams, "stop", "x" * 1025, "at most 1024 bytes; got 1025"),
    (SamplingParams, "stop", "\ud800", "not valid Unicode"),
    (EngineConfig, "preset", "fast", "low_latency, balanced, high_throughput; got 'fast'"),
    (EngineConfig, "n_ctx", 0, ">= 1; got 0"),
    (EngineConfig, "cache_ram_mib", -1, ">= 0; got -1"),
    (EngineConfig, "cache_disk_mib", 0, ">= 1; got 0"),
    (EngineConfig, "n_ctx", 2**40, "got 1099511627776"),
    (EngineConfig, "max_len", 1, ">= 2; got 1"),
    (EngineConfig, "max_seqs", 0, "in [1, 64]; got 0"),
    (EngineConfig, "max_seqs", 65, "in [1, 64]; got 65"),
    (EngineConfig, "token_budget", 63, "in [64, 65536]; got 63"),
    (EngineConfig, "n_ubatch", 15, "in [16, 4096]; got 15"),
    (EngineConfig, "n_ubatch", 1025, "<= token_budget (1024); got 1025"),
    (EngineConfig, "target_itl_ms", 0.0, "finite and > 0; got 0"),
    (EngineConfig, "target_itl_ms", float("inf"), "finite and > 0; got inf"),
    (EngineConfig, "n_threads", 0, f"in [1, {4 * (os.cpu_count() or 1)}], 4 per CPU; got 0"),
    (EngineConfig, "poll", 101, "in [0, 100]; got 101"),
    (EngineConfig, "n_gpu_layers", -2, ">= -1; got -2"),
    (EngineConfig, "tensor_split", [-1.0], ">= 0; got -1"),
    (EngineConfig, "split_mode", "col", "none, layer, row; got 'col'"),
    (EngineConfig, "main_gpu", -1, ">= 0; got -1"),
    (EngineConfig, "kv_type", "f8", "iq4_nl; got 'f8'"),
    (EngineConfig, "chat_template", "\ud800", "not valid Unicode"),
]


@pytest.mark.parametrize(("cls", "name", "value", "rule"), OUT_OF_RANGE)
def test_values_out_of_range_are_refused_with_rule_and_value(
    cls: Any, name: str, value: object, rule: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        cls(**{name: value})
    assert isinstance(caught.value, ValueError)
    assert name.split("_")[0] in str(caught.value)
    assert rule in str(caught.value)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="min_tokens 5 and max_tokens 4"):
        SamplingParams(max_tokens=4, min_tokens=5)
    with pytest.raises(InvalidRequestError, match="q8_0"):
        EngineConfig(deterministic=True, kv_type="q8_0")
