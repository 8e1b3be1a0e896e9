"""What the grammar of calls lets through is a call that obeys its tool's schema, in each format."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import FORMATS
from jsonschema import Draft202012Validator
from llamaherd import (
    BatchEngine,
    ChatOptions,
    EngineConfig,
    InvalidRequestError,
    MessageReader,
)
from llamaherd.request.chat import ChatPrompt
from llamaherd.structured_output.guides import Guide, mask_of
from llamaherd.structured_output.rule import Rule

pytestmark = pytest.mark.slow

SCHEMAS: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "where": {"$ref": "#/$defs/place"},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
        "$defs": {
            "place": {
                "type": "object",
                "properties": {"lat": {"type": "number", "minimum": 0, "maximum": 5}},
                "required": ["lat"],
                "additionalProperties": False,
            }
        },
    },
    "stop": {"type": "object", "properties": {}, "additionalProperties": False},
}
ODD: dict[str, Any] = {
    "booleans": {
        "type": "object",
        "properties": {
            "any": True,
            "none": False,
            "list": {"type": "array", "items": True},
            "either": {"anyOf": [True, {"type": "integer"}]},
            "self": {"$ref": "#"},
            "more": {"type": "object", "additionalProperties": {}},
        },
        "required": ["list"],
    },
    "reference": {
        "$ref": "#/definitions/x",
        "definitions": {
            "x": {
                "type": "object",
                "properties": {"n": {"type": "integer"}, "next": {"$ref": "#/definitions/x"}},
            }
        },
    },
    "unsupported": {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            "n": {"type": "integer", "not": {"const": 3}},
        },
    },
    "malformed": {"type": "object", "properties": {"a": {"type": "strin"}}, "required": True},
    "patterns": {
        "type": "object",
        "properties": {
            "part": {"type": "string", "pattern": "part"},
            "list": {"type": "array", "items": {"type": "string", "pattern": "^(?=.*a).{3}$"}},
        },
    },
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
# Families whose calls hold their arguments as JSON, and are read back with the stand-in templates.
WITH_SCHEMAS = ("cohere2moe", "deepseek", "functionary", "gpt_oss", "hermes", "ministral3")
HELLO = [{"role": "user", "content": "Hello"}]
_MOST_TOKENS = 200
# What ends strings, values and elements.
_ENDS = (b'"', b"}", b"<", b"</", b'"}', b"]", b">", b"0", b"a")


@pytest.fixture(scope="module", params=sorted(FORMATS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(family: str, model_path: Path) -> Iterator[BatchEngine]:
    config = EngineConfig(
        n_ctx=256, max_seqs=1, n_threads=1, warmup=False, chat_template=FORMATS[family]
    )
    with BatchEngine(model_path, config, progress=False) as engine:
        yield engine


def written_by(
    engine: BatchEngine, guide: Guide, begin: str, seed: int, thought_begin: str = ""
) -> str | None:
    """A text that obeys the rule, of random tokens; None: it did not end.

    Random reasoning has no end: the text has nothing that is like `thought_begin`.
    """
    unwanted = thought_begin[:-1].encode()
    draw = random.Random(seed)
    matcher = guide.matcher.deep_copy()
    matcher.consume_tokens(guide.tokenizer.tokenize_bytes(begin.encode()))
    ending = engine._core.end_of_generation()
    ends = [t for t, name in enumerate(guide.names) if name in _ENDS]
    text = begin.encode()
    for _ in range(_MOST_TOKENS):
        mask = mask_of(matcher, len(guide.names))
        assert mask is not None, matcher.get_error()
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        if bits[ending].any():
            return text.decode()
        allowed = np.flatnonzero(bits).tolist()
        assert allowed, text
        if unwanted:
            allowed = [t for t in allowed if unwanted not in text + guide.names[t]]
            if not allowed:
                return None
        likely = [
            t for t in ends if bits[t] and not (unwanted and unwanted in text + guide.names[t])
        ]
        token = draw.choice(likely if likely and draw.random() < 0.5 else allowed)
        assert matcher.consume_token(token), matcher.get_error()
        text += guide.names[token]
    return None


def answers_under(engine: BatchEngine, family: str, rendered: ChatPrompt) -> list[str]:
    """Random outputs that obey a prompt's rule; for some families none that ends is found."""
    assert rendered.rule is not None
    assert rendered.format is not None
    guide = engine._table.guides.make(rendered.rule)
    thought = rendered.format.grammar.thought_begin
    n_tries = 20 if family in WITH_SCHEMAS else 1  # masks of the others take long
    texts = (written_by(engine, guide, "", seed, thought) for seed in range(n_tries))
    found = list(islice(filter(None, texts), 2))
    assert found or family not in WITH_SCHEMAS
    return found


def test_calls_obey_their_schema(family: str, engine: BatchEngine) -> None:
    chat = ChatOptions(tools=TOOLS, parallel_tool_calls=False)
    rendered = engine.apply_chat_template(HELLO, chat)
    assert rendered.rule is not None
    guide = engine._table.guides.make(rendered.rule)
    assert rendered.format is not None
    begin = "".join(rendered.format.grammar.words[:1])
    texts = [written_by(engine, guide, begin, seed) for seed in range(6)]
    for text in filter(None, texts):
        reply = MessageReader(rendered.format).read_all(text)
        assert reply.tool_calls or family not in WITH_SCHEMAS, text
        for call in reply.tool_calls:
            arguments = json.loads(call.arguments)
            if family in WITH_SCHEMAS:
                Draft202012Validator(SCHEMAS[call.name]).validate(arguments)
    assert any(texts) or family not in WITH_SCHEMAS


def test_where_a_call_is_required_it_comes_first(family: str, engine: BatchEngine) -> None:
    chat = ChatOptions(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    rendered = engine.apply_chat_template(HELLO, chat)
    assert rendered.rule is not None
    assert not rendered.is_triggered
    for text in answers_under(engine, family, rendered):
        reply = MessageReader(rendered.format).read_all(text)
        assert not reply.content.strip(), text
        assert reply.tool_calls or family not in WITH_SCHEMAS, text


def test_an_answer_obeys_its_schema_and_calls_obey_theirs(family: str, engine: BatchEngine) -> None:
    schema = json.dumps({"enum": [{"a": 1}, {"a": 2}]})
    answer = Rule("json_schema", schema)
    options = ChatOptions(tools=TOOLS, parallel_tool_calls=False)
    rendered = options.render(engine._core, HELLO, add_generation_prompt=True, answer=answer)
    assert rendered.rule is not None
    for text in answers_under(engine, family, rendered):
        reply = MessageReader(rendered.format).read_all(text)
        if reply.tool_calls:
            assert not reply.content.strip(), text
        else:
            assert json.loads(reply.content) in ({"a": 1}, {"a": 2}), text


def test_many_properties_and_deep_schemas_are_quick_or_refused(engine: BatchEngine) -> None:
    deep: Any = {"type": "integer", "minimum": 3, "maximum": 999_999_999}
    for _ in range(25):
        deep = {"allOf": [deep]}
    parameters = {
        "type": "object",
        "properties": {
            **{f"property{i}": {"type": "integer", "minimum": i} for i in range(1000)},
            "deep": deep,
            "wrong": {"type": "string", "minLength": 3, "maxLength": 1},
        },
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    rendered = engine.apply_chat_template(HELLO, ChatOptions(tools=[tool] * 2))
    assert "property999" in rendered.text


def test_odd_schemas_refuse_no_request(
    engine: BatchEngine, family: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in ODD.items()
    ]
    for choice in ("auto", "required", "none"):
        options = ChatOptions(tools=tools, tool_choice=choice)
        rendered = engine.apply_chat_template(HELLO, options)
        if rendered.rule is None or (family, choice) == ("gemma4", "required"):
            continue  # the stand-in's prompt does not begin as Gemma's grammar asks
        unenforced = engine._table.guides.make(rendered.rule).unenforced
        assert {tool for tool, _ in unenforced} >= {"unsupported", "malformed"}
        assert {tool for tool, _ in unenforced} <= {"unsupported", "malformed", "patterns"}
    # llama.cpp's converter writes warnings about schemas there.
    assert capfd.readouterr() == ("", "")


def test_names_are_bounded_before_llama_cpp_reads_them(engine: BatchEngine) -> None:
    def render(name: str, argument: str) -> str:
        parameters = {"type": "object", "properties": {argument: {"type": "integer"}}}
        tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
        return engine.apply_chat_template(HELLO, ChatOptions(tools=[tool])).text

    assert "." * 1024 in render("." * 256, "." * 1024)
    with pytest.raises(InvalidRequestError, match="tool's name must have at most 256 bytes; got"):
        render("." * 300_000, "a")
    with pytest.raises(InvalidRequestError, match="of tool 'f' must have at most 1024 bytes; got"):
        render("f", "." * 300_000)


def test_no_grammar_is_made_where_no_call_may_come(engine: BatchEngine) -> None:
    wrong = {"type": "string", "minLength": 3, "maxLength": 1}
    parameters = {"type": "object", "properties": {"." * 300_000: {"type": "integer"}, "x": wrong}}
    tool = {"type": "function", "function": {"name": "." * 300_000, "parameters": parameters}}
    for choice, asks in (("auto", False), ("required", False), ("none", True)):
        options = ChatOptions(tools=[tool], tool_choice=choice)
        rendered = engine.apply_chat_template(HELLO, options, add_generation_prompt=asks)
        assert "." * 300_000 in rendered.text
