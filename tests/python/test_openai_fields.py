"""Every request that openai's types declare is accepted, but for the fields that are refused."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from llamaherd.server.api.body_schema import fields_of
from llamaherd.server.api.response_tools import LeftOutTool
from pydantic import ValidationError
from typing_extensions import get_type_hints, is_typeddict

_PATH = Path(__file__).resolve().parents[2] / "tools" / "make_fields_page.py"
_spec = importlib.util.spec_from_file_location("make_fields_page", _PATH)
assert _spec is not None
assert _spec.loader is not None
page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page)
_PLAIN: dict[Any, list[Any]] = {
    str: ["1"],
    int: [1],
    float: [0.5, 1],
    bool: [True, False],
    NoneType: [None],
    object: [{"a": [None]}],
}


def values(hint: Any, own: Any, refused: list[Any]) -> Iterator[Any]:
    """Values of a type of openai's that the own type should have."""
    origin, parts = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        model = page._model_of(hint, list(page._models_in(own)))
        if model is not None:
            yield from bodies(hint, model)
    elif origin is Literal:
        yield from (value for value in parts if value not in refused)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from ({"1": value} for value in values(parts[1], own, refused))
    elif isinstance(origin, type) and issubclass(origin, Iterable):
        yield from ([value, *_beside(value)] for value in values(parts[0], own, refused))
    elif parts:
        is_listed = any(get_origin(part) is Literal for part in parts)
        for part in parts:
            if is_listed and part is str:
                continue  # values to come
            yield from values(part, own, refused)
    else:
        yield from (value for value in _PLAIN[hint] if value not in refused)


def _beside(value: Any) -> list[Any]:
    """A function, beside which a tool is accepted."""
    kinds = get_args(LeftOutTool.model_fields["type"].annotation)
    is_left_out = isinstance(value, dict) and value.get("type") in kinds
    return [{"type": "function", "name": "f"}] if is_left_out else []


def bodies(typed: Any, model: Any) -> Iterator[dict[str, Any]]:
    """Objects of a TypedDict: the required fields, and one with one value."""
    known = fields_of(model)
    hints = {name: hint for name, hint in get_type_hints(typed).items() if name in known}

    def of(name: str) -> Iterator[Any]:
        refused = page.refused_values(hints[name], known[name])
        if known[name].is_required():
            refused.append(None)
        if name == "seconds":
            yield 3600
        else:
            yield from values(hints[name], known[name].annotation, refused)

    required = {name: next(of(name)) for name in hints if known[name].is_required()}
    for name in hints:
        for value in of(name):
            yield {**required, name: value}


@pytest.mark.parametrize("path", list(page.ENDPOINTS))
def test_every_declared_request_is_accepted(path: str) -> None:
    typed, model = page.ENDPOINTS[path]
    found = list(bodies(typed, model))
    assert len(found) > (9 if path in ("/v1/embeddings", "/v1/batches") else 30)
    for body in found:
        model.model_validate(body)


@pytest.mark.parametrize("path", list(page.ENDPOINTS))
def test_every_value_that_is_refused_is_refused(path: str) -> None:
    typed, model = page.ENDPOINTS[path]
    known = fields_of(model)
    first = next(bodies(typed, model))
    n_refused = 0
    for name, hint in get_type_hints(typed).items():
        for value in page.refused_values(hint, known[name]) if name in known else ():
            n_refused += 1
            for sent in (value, [value]):
                with pytest.raises(ValidationError, match=name):
                    model.model_validate({**first, name: sent})
        if name in model.refused:
            with pytest.raises(ValidationError, match="not supported"):
                model.model_validate({**first, name: 1})
    assert n_refused > 0 or path not in ("/v1/chat/completions", "/v1/responses")


def test_no_field_is_unclassified() -> None:
    _, unclassified = page.page()
    assert not unclassified
    statuses = {
        row.status for row in itertools.chain(*(page.rows(*e) for e in page.ENDPOINTS.values()))
    }
    assert statuses == {"supported", "without effect", "refused"}
