"""Schemas as clients' libraries write them: each compiles, accepts what conforms, and no more."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal

import pytest
from json_walker import accepts, schema_guide, tool, tools_guide
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

_2020 = "https://json-schema.org/draft/2020-12/schema"
_07 = "http://json-schema.org/draft-07/schema#"


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Owner(BaseModel):
    """A person with a pet."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Full name", examples=["Ada"], max_length=20)
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    color: Color | None = None
    friend: Owner | None = Field(default=None, deprecated=True)


_OWNER = {"name": "Ada", "pet": {"kind": "cat", "lives": 9}}


def adapter(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema()


def obj(**properties: Any) -> dict[str, Any]:
    """An object as zod 4 writes it."""
    return {
        "$schema": _2020,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+"
    r"[A-Za-z]{2,}$"
)
_DURATION = (
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?"
    r"(\d+([.,]\d+)?S)?)?)$"
)
_DATE = (
    r"^(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29|"
    r"\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|"
    r"(?:02)-(?:0[1-9]|1\d|2[0-8])))$"
)
_UUID = (
    r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|"
    r"00000000-0000-0000-0000-000000000000)$"
)
_AN_ID = "123e4567-e89b-12d3-a456-426614174000"

ZOD_4: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "record": (
        {
            "$schema": _2020,
            "type": "object",
            "propertyNames": {"type": "string"},
            "additionalProperties": {"type": "boolean"},
        },
        [{}, {"a": True, "b": False}],
        [{"a": 1}, []],
    ),
    "record of an enum": (
        {
            "type": "object",
            "propertyNames": {"type": "string", "enum": ["a", "b"]},
            "additionalProperties": {"type": "number"},
            "required": ["a", "b"],
        },
        [{"a": 1, "b": 2}],
        [{"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": "x", "b": 1}],
    ),
    "partial record of literals": (
        {
            "type": "object",
            "propertyNames": {
                "anyOf": [
                    {"type": "string", "const": "a"},
                    {"type": "string", "const": "b"},
                ]
            },
            "additionalProperties": {"type": "number"},
        },
        [{}, {"b": 2}],
        [{"c": 1}],
    ),
    "record of a pattern": (
        {
            "type": "object",
            "propertyNames": {"type": "string", "pattern": "^x-"},
            "additionalProperties": {"type": "string"},
        },
        [{"x-a": "1"}, {}],
        [{"y": "1"}, {"x-a": 1}],
    ),
    "record of ids": (
        {
            "type": "object",
            "propertyNames": {"type": "string", "format": "uuid", "pattern": _UUID},
            "additionalProperties": {"type": "integer"},
        },
        [{_AN_ID: 1}],
        [{"a": 1}],
    ),
    "strings": (
        obj(
            email={"type": "string", "format": "email", "pattern": _EMAIL},
            id={"type": "string", "format": "uuid", "pattern": _UUID},
            day={"type": "string", "format": "date", "pattern": _DATE},
            time={
                "type": "string",
                "format": "time",
                "pattern": r"^(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?$",
            },
            lasts={"type": "string", "format": "duration", "pattern": _DURATION},
        ),
        [
            {
                "email": "ada.l@example.com",
                "id": _AN_ID,
                "day": "2024-02-29",
                "time": "23:59",
                "lasts": "P1DT2H",
            }
        ],
        [
            {"email": "a..b@example.com", "id": _AN_ID, "day": "", "time": "", "lasts": ""},
            {"email": ".a@example.com"},
            {"email": "a@example.com", "id": "1"},
        ],
    ),
    "more strings": (
        obj(
            url={"type": "string", "format": "uri"},
            token={"type": "string", "format": "jwt"},
            data={
                "type": "string",
                "format": "base64",
                "contentEncoding": "base64",
                "pattern": (
                    "^$|^(?:[0-9a-zA-Z+/]{4})*(?:(?:[0-9a-zA-Z+/]{2}==)|(?:[0-9a-zA-Z+/]{3}=))?$"
                ),
            },
            code={
                "type": "string",
                "allOf": [{"pattern": "^hello.*"}, {"pattern": "cruel"}, {"pattern": ".*world$"}],
            },
        ),
        [{"url": "https://a.b/c", "token": "x", "data": "QQ==", "code": "hello cruel world"}],
        [
            {"url": "https://a.b/c", "token": "x", "data": "Q", "code": "hello cruel world"},
            {"url": "https://a.b/c", "token": "x", "data": "", "code": "hello world"},
        ],
    ),
    "integers": (
        obj(
            n={"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
            positive={
                "type": "integer",
                "exclusiveMinimum": 0,
                "maximum": 9007199254740991,
            },
        ),
        [{"n": -(2**53) + 1, "positive": 1}, {"n": 2**53 - 1, "positive": 2**53 - 1}],
        [{"n": 2**53, "positive": 1}, {"n": 0, "positive": 0}, {"n": 1.5, "positive": 1}],
    ),
    "numbers of draft 4": (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "number",
            "minimum": 5,
            "exclusiveMinimum": True,
            "maximum": 10,
            "exclusiveMaximum": True,
        },
        [6, 9.5],
        [5, 10],
    ),
    "a recursive object": (
        {
            "$schema": _2020,
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "parts": {"type": "array", "items": {"$ref": "#"}},
            },
            "required": ["name", "parts"],
            "additionalProperties": False,
        },
        [{"name": "a", "parts": [{"name": "b", "parts": []}]}],
        [{"name": "a", "parts": [{"name": "b"}]}],
    ),
    "a discriminated union": (
        {
            "oneOf": [
                obj(type={"type": "string", "const": "a"}, x={"type": "number"}),
                obj(type={"type": "string", "const": "b"}),
            ]
        },
        [{"type": "a", "x": 1}, {"type": "b"}],
        [{"type": "b", "x": 1}, {"type": "c"}],
    ),
    "a loose object": (
        {
            "type": "object",
            "properties": {"a": {"type": "string"}, "any": {}},
            "required": ["a"],
            "additionalProperties": {},
        },
        [{"a": "x"}, {"a": "x", "any": None, "b": [1]}],
        [{"a": 1}],
    ),
    "a tuple": (
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "items": False},
        [["a", 1], ["a"]],
        [["a", 1, 2], [1]],
    ),
    "shared definitions": (
        {
            "$schema": _2020,
            "type": "object",
            "properties": {
                "to": {"$ref": "#/$defs/Address"},
                "from": {"$ref": "#/$defs/Address", "description": "Sender", "deprecated": True},
            },
            "required": ["to"],
            "additionalProperties": False,
            "$defs": {"Address": {"id": "Address", **obj(city={"type": "string"})}},
        },
        [{"to": {"city": "Oslo"}}, {"to": {"city": "Oslo"}, "from": {"city": "Rome"}}],
        [{"to": {}}],
    ),
    "a property that never is": (
        {
            "type": "object",
            "properties": {"a": {"not": {}}, "b": {"type": "string", "readOnly": True}},
            "additionalProperties": False,
        },
        [{}, {"b": "x"}],
        [{"a": 1}],
    ),
}

PYDANTIC: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "a model": (
        Owner.model_json_schema(),
        [
            _OWNER,
            {**_OWNER, "color": "red", "friend": {**_OWNER, "pet": {"kind": "dog"}}},
            {**_OWNER, "color": None},
        ],
        [
            {"name": "Ada"},
            {"name": "Ada", "pet": {"kind": "dog", "lives": 9}, "legs": 4},
            {"name": "Ada", "pet": {"kind": "cat", "lives": 10}},
            {**_OWNER, "color": "green"},
        ],
    ),
    "a tuple": (adapter(tuple[int, str]), [[1, "a"]], [[1], [1, "a", 2], ["a", 1]]),
    "names of a literal": (
        adapter(dict[Literal["a", "b"], int]),
        [{"a": 1}, {}],
        [{"c": 1}, {"a": "x"}],
    ),
    "names of a pattern": (
        adapter(dict[Annotated[str, Field(pattern="^x")], int]),
        [{"x1": 1}],
        [{"x1": "a"}],
    ),
    "names of ids": (adapter(dict[uuid.UUID, int]), [{_AN_ID: 1}], [{"a": 1}]),
    "a decimal": (
        {
            "anyOf": [
                {"type": "number"},
                {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"},
            ]
        },
        [1.5, "1.50", "-.5", "+7"],
        ["+", ".", "", "1e5"],
    ),
    "a decimal of the installed version": (adapter(decimal.Decimal), [1.5, "1.50"], [None]),
    "times": (
        adapter(dict[str, datetime.datetime | datetime.date]),
        [{"a": "2024-02-29"}, {"a": "2024-02-29T10:00:00Z"}],
        [{"a": "yesterday"}],
    ),
    "a path and a secret": (
        {
            "type": "object",
            "properties": {
                "path": {"type": "string", "format": "path"},
                "secret": {"type": "string", "format": "password", "writeOnly": True},
                "blob": {"type": "string", "format": "binary", "contentMediaType": "image/png"},
                "net": {"type": "string", "format": "ipvanyaddress"},
            },
            "required": ["path", "secret", "blob", "net"],
        },
        [{"path": "/a", "secret": "b", "blob": "c", "net": "::1"}],
        [{"path": 1, "secret": "b", "blob": "c", "net": "::1"}],
    ),
}

OTHERS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "typebox": (
        {
            "$id": "User",
            "type": "object",
            "required": ["name", "role", "pair"],
            "properties": {
                "name": {"minLength": 1, "type": "string"},
                "role": {
                    "anyOf": [
                        {"const": "admin", "type": "string"},
                        {"const": "user", "type": "string"},
                    ]
                },
                "pair": {
                    "type": "array",
                    "items": [{"type": "number"}, {"type": "string"}],
                    "additionalItems": False,
                    "minItems": 2,
                    "maxItems": 2,
                },
                "any": {},
                "tags": {"type": "object", "patternProperties": {"^(.*)$": {"type": "string"}}},
                "self": {"$ref": "User"},
            },
        },
        [
            {"name": "a", "role": "admin", "pair": [1, "x"]},
            {"name": "a", "role": "user", "pair": [1, "x"], "any": 1, "tags": {"a": "b"}},
            {
                "name": "a",
                "role": "user",
                "pair": [1, "x"],
                "self": {"name": "b", "role": "user", "pair": [1, "x"]},
            },
        ],
        [
            {"name": "a", "role": "root", "pair": [1, "x"]},
            {"name": "a", "role": "user", "pair": [1]},
            {"name": "a", "role": "user", "pair": [1, "x"], "tags": {"a": 1}},
        ],
    ),
    "zod-to-json-schema": (
        {
            "$ref": "#/definitions/call",
            "definitions": {
                "call": {
                    "type": "object",
                    "properties": {
                        "from": {
                            "type": "object",
                            "properties": {"x": {"type": "integer", "nullable": True}},
                            "required": ["x"],
                            "additionalProperties": False,
                        },
                        "to": {"$ref": "#/definitions/call/properties/from"},
                    },
                    "required": ["from"],
                    "additionalProperties": False,
                }
            },
            "$schema": _07,
        },
        [{"from": {"x": 1}}, {"from": {"x": 1}, "to": {"x": 2}}],
        [{"from": {"x": 1}, "to": {"x": "a"}}, {"to": {"x": 1}}],
    ),
    "LangChain": (
        {
            "type": "object",
            "properties": {
                "query": {"description": "What to search", "type": "string"},
                "k": {"default": 4, "type": "integer"},
                "filters": {
                    "anyOf": [
                        {"type": "object", "additionalProperties": True},
                        {"type": "null"},
                    ],
                    "default": None,
                },
            },
            "required": ["query"],
        },
        [{"query": "a"}, {"query": "a", "k": 2, "filters": {"a": [1]}}],
        [{"k": 2}, {"query": "a", "filters": 3}],
    ),
    "OpenAI agents, strict": (
        {
            "properties": {
                "city": {"title": "City", "type": "string"},
                "unit": {
                    "anyOf": [{"enum": ["c", "f"], "type": "string"}, {"type": "null"}],
                    "title": "Unit",
                },
            },
            "required": ["city", "unit"],
            "title": "get_weather_args",
            "type": "object",
            "additionalProperties": False,
        },
        [{"city": "Oslo", "unit": None}, {"city": "Oslo", "unit": "c"}],
        [{"city": "Oslo"}, {"city": "Oslo", "unit": "k"}],
    ),
    "null for what is absent": (
        {
            "type": "object",
            "properties": {"a": {"type": "string", "enum": None, "pattern": None, "items": None}},
            "required": None,
            "additionalProperties": False,
            "$defs": None,
        },
        [{}, {"a": "x"}],
        [{"a": 1}],
    ),
    "a password": (
        {"type": "string", "pattern": r"^(?=.*[A-Z])(?=.*\d).{4,8}$"},
        ["Abc1", "1ABCDEFG"],
        ["abc1", "Abcd", "A1", "A12345678"],
    ),
    "booleans": (
        {
            "type": "object",
            "properties": {"a": True, "b": False, "c": {"type": "array", "items": True}},
            "anyOf": [True],
            "additionalProperties": True,
        },
        [{}, {"a": [1], "c": [1, None]}, {"d": {}}],
        [{"b": 1}, {"c": 1}],
    ),
}
CASES = {
    f"{library}: {name}": case
    for library, cases in (("zod 4", ZOD_4), ("pydantic", PYDANTIC), ("", OTHERS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_a_response_format_accepts_what_conforms(name: str) -> None:
    schema, good, bad = CASES[name]
    guide = schema_guide(schema)
    assert [value for value in good if not accepts(guide, value)] == []
    assert [value for value in bad if accepts(guide, value)] == []


OF_OBJECTS = [
    name for name, (_, good, _) in CASES.items() if all(isinstance(value, dict) for value in good)
]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", OF_OBJECTS)
def test_a_tool_accepts_what_conforms(name: str, strict: bool) -> None:
    schema, good, bad = CASES[name]
    guide = tools_guide(tool(schema, strict=strict))
    assert guide.unenforced == ()
    assert [value for value in good if not accepts(guide, value)] == []
    assert [value for value in bad if accepts(guide, value)] == []
