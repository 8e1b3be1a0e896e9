"""Tools whose arguments even a weak model gets right, as their schemas leave it no others."""

from typing import Any, Literal

from pydantic import BaseModel, Field

# Annotations stay objects: LlamaIndex does not resolve texts.
City = Literal["Oslo", "Paris"]
Unit = Literal["celsius", "kelvin"]

QUESTION = "What is the weather in Paris, in celsius?"
RESULT = "It is sunny, 21 degrees."
THANKS = "Thank you. And in Oslo?"


def get_weather(city: City, unit: Unit) -> str:
    """Tell the weather in a city."""
    return f"{RESULT[:-1]} {unit} in {city}."


def get_time(city: City) -> str:
    """Tell the time in a city."""
    return f"It is 9 o'clock in {city}."


class Report(BaseModel):
    """The weather in a city."""

    city: City
    degrees: int = Field(ge=-40, le=50)


WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Paris"]},
        "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TIME_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}
