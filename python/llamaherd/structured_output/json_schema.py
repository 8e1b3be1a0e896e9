"""JSON schemas: their limits, and their text for llguidance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from math import lcm
from typing import Any

from llamaherd._core import InvalidRequestError
from llamaherd.structured_output.constraint_errors import UNSATISFIABLE
from llamaherd.structured_output.schemas.schema_form import (
    BY_NAME,
    UnenforceableError,
    require_well_formed,
)
from llamaherd.structured_output.schemas.simplifier import simplify

MAX_VALUES = 10_000  # objects, arrays and scalars
MAX_DEPTH = 64  # nesting of arrays and objects
MAX_BYTES = 512 * 1024  # of the JSON text
_MAX_KEPT_BYTES = 16 * 1024  # of a text whose conversion is remembered
# Least common multiple of all multipleOf values, scaled to integers: the number of states of
# llguidance's automaton.
MAX_MULTIPLE = 10_000

# With one of these keywords, properties beyond the listed ones are allowed.
_OPENING = (
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "propertyNames",
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "dependentSchemas",
)


def to_text(what: str, schema: Mapping[str, Any] | bool) -> str:
    """Convert a schema to an equivalent one for llguidance, as JSON.

    Args:
      what: Name of the schema in error messages.
      schema: JSON values. Not modified.

    Raises:
      UnenforceableError: The schema is malformed, allows no value, or its multipleOf exceeds
        MAX_MULTIPLE.
      InvalidRequestError: The schema contains other values, or is too large.
    """
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{what} must hold JSON values: {error}") from None
    if len(text) > MAX_BYTES:
        raise InvalidRequestError(
            f"{what} must have at most {MAX_BYTES} bytes of JSON; got {len(text)}"
        )
    convert = _converted if len(text) <= _MAX_KEPT_BYTES else _converted.__wrapped__
    return convert(what, text)


@lru_cache(maxsize=256)  # clients send the same tools again and again
def _converted(what: str, text: str) -> str:
    # A copy with plain JSON types and no cycles.
    copy = json.loads(text)
    require_usable(what, copy)
    require_well_formed(what, copy)
    simple = simplify(copy)
    if simple is False:
        raise UnenforceableError(f"{what} allows no value", UNSATISFIABLE)
    return json.dumps({} if simple is True else simple)


def require_usable(what: str, schema: Any) -> None:
    """Check the limits on the size of a schema and on multipleOf.

    Raises:
      UnenforceableError: The limit on multipleOf is exceeded.
      InvalidRequestError: Another limit is exceeded; the message states it.
    """
    multiple = 1
    for number in _multiples(what, schema):
        multiple = lcm(multiple, _without_point(number))
        if multiple > MAX_MULTIPLE:
            raise UnenforceableError(
                f"{what} must have numbers of multipleOf whose least common multiple is at "
                f"most {MAX_MULTIPLE}, without decimal points; got {repr(number)[:40]}",
                "multipleOf",
            )


def require_small(what: str, schema: Any) -> None:
    """Check the limits on the size of a schema.

    Raises:
      InvalidRequestError: A limit is exceeded; the message states it.
    """
    _multiples(what, schema)


def _multiples(what: str, schema: Any) -> list[int | float]:
    """The values of multipleOf."""
    n_values = 0
    numbers = []
    left = [(schema, 0)]
    while left:
        value, depth = left.pop()
        n_values += 1
        if n_values > MAX_VALUES:
            raise InvalidRequestError(f"{what} must hold at most {MAX_VALUES} JSON values")
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"{what} must be at most {MAX_DEPTH} levels deep")
        if isinstance(value, Mapping):
            left += [(child, depth + 1) for child in value.values()]
            number = value.get("multipleOf")
            if isinstance(number, int | float) and not isinstance(number, bool):
                numbers.append(number)
        elif isinstance(value, list | tuple):
            left += [(child, depth + 1) for child in value]
    return numbers


def closed(schema: Any) -> Any:
    """Close objects with listed properties to other properties, unless the schema defines those or
    lists properties in several places. The schema has passed `require_small`."""
    if not isinstance(schema, Mapping):
        return schema
    s = dict(schema)
    for keyword in BY_NAME:
        if isinstance(s.get(keyword), Mapping):
            s[keyword] = {name: closed(sub) for name, sub in s[keyword].items()}
    for keyword in ("items", "additionalProperties"):
        if keyword in s:
            s[keyword] = closed(s[keyword])
    for keyword in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(s.get(keyword), list) and "properties" not in s:
            s[keyword] = [closed(sub) for sub in s[keyword]]
    if "properties" in s and not any(keyword in s for keyword in _OPENING):
        s["additionalProperties"] = False
    return s


def _without_point(number: int | float) -> int:
    parts = Decimal(repr(number)).as_tuple()
    if not isinstance(parts.exponent, int) or abs(parts.exponent) > 20:
        return MAX_MULTIPLE + 1
    digits = int("".join(map(str, parts.digits)))
    return max(1, digits * int(10 ** max(0, parts.exponent)))
