"""Base class of request bodies, and its unions.

A member that is null is absent. An unknown field is refused with the nearest known name.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_logger = logging.getLogger("llamaherd.server")
_LONGEST_NAME = 64  # that is compared with the known names
_NEAR = 0.7

strict_fields: ContextVar[bool] = ContextVar("strict_fields", default=False)
"""Whether the current request's fields without effect are refused."""


@dataclass(frozen=True)
class WithoutEffect:
    """Marks a field that is validated, and then dropped.

    Args:
      reason: Why it changes nothing.
    """

    reason: str


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to a misspelt one."""
    if len(name) > _LONGEST_NAME:
        return None
    found = difflib.get_close_matches(name, list(known), 1, _NEAR)
    return found[0] if found else None


def unknown_field(name: str, known: Iterable[str]) -> str:
    """The message of an unknown field, without its name."""
    near = nearest(name, known)
    return f"is not supported; did you mean {near}?" if near else "is not supported"


def _unsupported(name: str, rule: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported_field", "{rule}", {"field": name, "rule": rule})


def _describe(schema: dict[str, Any], model: type[Body]) -> None:
    """Completes a model's JSON schema: optional fields may be null, and other names of fields."""
    properties = schema.get("properties", {})
    for name, field in fields_of(model).items():
        found = properties[name]
        reason = effectless(field)
        if reason is not None:
            found["description"] = f"Without effect: {reason}."
        if not field.is_required():
            properties[name] = _nullable(found)
    for other, name in model.other_names.items():
        properties[other] = {**properties[name], "description": f"Another name of {name}."}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    kept: dict[str, Any] = {
        key: schema[key] for key in ("title", "default", "description") if key in schema
    }
    rest = {key: value for key, value in schema.items() if key not in kept}
    if not rest or null in rest.get("anyOf", ()):
        return schema
    options = rest["anyOf"] if list(rest) == ["anyOf"] else [rest]
    return {**kept, "anyOf": [*options, null]}


class Body(BaseModel):
    """Base of request bodies and their objects. Accepts 1 for 1.0.

    Attributes:
      other_names: Names of a field in other servers' APIs.
      refused: What to do instead of a field of OpenAI's API that is not supported.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_describe)
    other_names: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        if isinstance(body, cls):
            return body
        if not isinstance(body, dict):
            raise wrong_value("an object")
        known = fields_of(cls)
        if body.keys() <= known.keys() and None not in body.values():
            return body
        given: dict[str, Any] = {}
        for name, value in body.items():
            if value is None:
                continue
            own = cls.other_names.get(name, name)
            if own in given and given[own] != value:
                raise _unsupported(name, f"must not be set together with {own}")
            if own not in known:
                raise _unsupported(name, cls._rule_of_unknown(name))
            given[own] = value
        return given

    @classmethod
    def _rule_of_unknown(cls, name: str) -> str:
        if name in cls.refused:
            return f"is not supported: {cls.refused[name]}"
        return unknown_field(name, [*fields_of(cls), *cls.other_names])

    @model_validator(mode="after")
    def _without_effectless(self) -> Body:
        without_effect = _without_effect(type(self))
        for name in self.model_fields_set & without_effect.keys():
            json_name, reason = without_effect[name]
            if strict_fields.get():
                raise _unsupported(json_name, f"is not supported (--strict-fields): {reason}")
            self.__dict__[name] = None
            _note(type(self).__name__, json_name, reason)
        return self


@cache
def fields_of(model: type[Body]) -> dict[str, FieldInfo]:
    """The fields of a body by their names in JSON."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


@cache
def _without_effect(model: type[Body]) -> dict[str, tuple[str, str]]:
    """The name in JSON and the reason of each field without effect."""
    reasons = {
        name: (field.alias or name, effectless(field)) for name, field in model.model_fields.items()
    }
    return {name: (json_name, reason) for name, (json_name, reason) in reasons.items() if reason}


def effectless(field: FieldInfo) -> str | None:
    """Why a field changes nothing; None: it has an effect."""
    marks = [mark.reason for mark in field.metadata if isinstance(mark, WithoutEffect)]
    return marks[0] if marks else None


@cache  # once per process
def _note(model: str, name: str, reason: str) -> None:
    _logger.debug("field %s of %s is accepted without effect: %s", name, model, reason)


def wrong_value(expected: str) -> PydanticCustomError:
    """The error of a value that breaks a rule: what it must be."""
    return PydanticCustomError("wrong_value", "must be {expected}", {"expected": expected})


# Tags of unions are in angle brackets: in the location of an error they are no keys.
def _tagged(
    choices: dict[str, CoreSchema],
    tag_of: Callable[[Any], str],
    require: Callable[[Any], Any],
) -> CoreSchema:
    union = core_schema.tagged_union_schema(
        {f"<{tag}>": schema for tag, schema in choices.items()},
        lambda value: f"<{tag_of(value)}>",
    )
    return core_schema.no_info_before_validator_function(require, union)


@dataclass(frozen=True)
class ByType:
    """Chooses a union's model by the member `type`.

    Args:
      what: What the models are, plural.
      accepted: What an error says is accepted; empty: all types.
      default: Type of an object without one; None: it is required.
    """

    what: str
    accepted: str = ""
    default: str | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {
            tag: handler.generate_schema(model)
            for model in get_args(source) or (source,)
            for tag in get_args(model.model_fields["type"].annotation)
        }
        accepted = self.accepted or ", ".join(choices)

        def require(value: Any) -> Any:
            if isinstance(value, BaseModel):
                return value
            if not isinstance(value, dict):
                raise wrong_value("an object")
            kind = self._type_of(value)
            if kind is None:
                message = "{what} must have a type: {accepted}"
                raise PydanticCustomError(
                    "no_type", message, {"what": self.what, "accepted": accepted}
                )
            if not isinstance(kind, str) or kind not in choices:
                message = "{what} of type {type} are not supported: this server accepts {accepted}"
                shown = kind[:_LONGEST_NAME] if isinstance(kind, str) else kind_of(kind)
                context = {"what": self.what, "type": shown, "accepted": accepted}
                raise PydanticCustomError("unsupported_type", message, context)
            return value

        return _tagged(choices, self._type_of, require)

    def _type_of(self, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return self.default if kind is None else kind


class ByKind:
    """Chooses a union's type by the kind of the JSON value: string, array, object, ..., and of
    arrays by that of the first item."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        kinds = [(_kinds_of_type(choice), choice) for choice in get_args(source)]
        kinds = [(kind, choice) for kind, choice in kinds if kind[0] != "null"]
        n_arrays = sum(kind[0] == "array" for kind, _ in kinds)
        tags = [" of ".join(kind[: 2 if n_arrays > 1 else 1]) for kind, _ in kinds]
        choices = {
            tag: handler.generate_schema(choice)
            for tag, (_, choice) in zip(tags, kinds, strict=True)
        }
        *most, last = [_with_article(tag) for tag in choices]
        expected = f"{', '.join(most)} or {last}" if most else last

        def tag_of(value: Any) -> str:
            kind = kind_of(value)
            if kind == "array" and n_arrays > 1:
                items = f"array of {kind_of(value[0])}" if value else ""
                return items or next(tag for tag in choices if tag.startswith("array"))
            return kind

        def require(value: Any) -> Any:
            if tag_of(value) not in choices:
                raise wrong_value(expected)
            return value

        return _tagged(choices, tag_of, require)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described: dict[str, Any] = handler(schema)
        if "oneOf" in described:  # an empty array is one of each kind
            described["anyOf"] = described.pop("oneOf")
        return described


BY_KIND = ByKind()


def kind_of(value: Any) -> str:
    """The kind of a JSON value, as errors name it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _kinds_of_type(hint: Any) -> tuple[str, ...]:
    """The kind of a type's values; of an array, that of its items too."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _kinds_of_type(get_args(hint)[0])
    if origin is list:
        return ("array", _kinds_of_type(get_args(hint)[0])[0])
    if origin is Literal:
        return (kind_of(get_args(hint)[0]),)
    if hint is type(None):
        return ("null",)
    kinds = {str: "string", bool: "boolean", int: "number", float: "number"}
    return (kinds.get(hint, "object"),)


def _with_article(tag: str) -> str:
    words = tag.replace(" of ", "s of ").split("s of ")
    text = f"{words[0]} of {words[1]}s" if len(words) > 1 else tag
    return f"an {text}" if text[0] in "ao" else f"a {text}"
