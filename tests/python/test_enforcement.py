"""What happens to tools' schemas that llguidance does not compile, and to its error messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from chat_templates import FORMATS, TOOLS_AND_THOUGHTS
from json_walker import accepts, guides, schema_guide, tool, tools_guide
from llamaherd import (
    BatchEngine,
    ChatOptions,
    EngineConfig,
    FinishReason,
    InvalidRequestError,
    MessageReader,
    SamplingParams,
    _core,
)
from llamaherd.structured_output.constraint_errors import keywords_of, sentence_of
from llamaherd.structured_output.enforcement import UnenforcedLog, reduced
from llamaherd.structured_output.rule import MarkedSchema, Rule
from llamaherd.structured_output.schemas.patterns import matches, without_lookaround
from llamaherd.structured_output.token_masks import OutputConstraint, TokenMasks
from test_masks import Core, Delta

SMALL = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
LARGE: dict[str, Any] = {  # the options of its parts are multiplied
    "type": "object",
    "allOf": [
        {"anyOf": [{"properties": {f"p{j}{i}": {"type": "integer"}}} for i in range(60)]}
        for j in range(3)
    ],
}
# It compiles, but not every mask can be computed.
COMPLEX: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string", "pattern": "(.*a.{1000}){3}b"}},
    "required": ["a"],
}


def test_a_schema_that_is_too_large_leaves_the_others_enforced() -> None:
    guide = tools_guide(tool(SMALL, "small"), tool(LARGE, "large"))
    assert guide.unenforced == (("large", "size"),)
    assert accepts(guide, {"n": 3})
    assert accepts(guide, {"anything": [1, {"a": None}]})
    with pytest.raises(InvalidRequestError, match=r"tool 'large' .* too large"):
        tools_guide(tool(SMALL, "small"), tool(LARGE, "large", strict=True))


def test_schemas_that_are_too_large_together_are_given_up_from_the_largest_on() -> None:
    schemas = [MarkedSchema(str(i), "x" * i, f"t{i}", "y") for i in range(2, 9)]
    rule: Rule | None = Rule("tools", "", (MarkedSchema("s", "strict", "s"), *schemas))
    kept = []
    while rule is not None:
        kept.append([schema.tool for schema in rule.schemas if schema.text != "y"])
        rule = reduced(rule, lambda schema: True)
    assert kept == [
        ["s", "t2", "t3", "t4", "t5", "t6", "t7", "t8"],
        ["s", "t2", "t3", "t4"],
        ["s", "t2"],
        ["s"],
    ]
    alone = reduced(Rule("tools", "", tuple(schemas)), lambda schema: schema.tool != "t5")
    assert alone is not None
    assert [s.unenforced for s in alone.schemas if s.text == "y"] == [("size",)]


@pytest.mark.parametrize("strict", [False, True])
def test_masks_that_are_too_complex_end_an_output_only_if_strict(
    strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    core: Any = Core()
    guide = tools_guide(tool(COMPLEX, strict=strict))
    masks = TokenMasks(core, threaded=False)
    masks.start([7], OutputConstraint(guides().n_vocab, guide))
    for i, token in enumerate(b'{"a": "' + b"a" * 200):
        masks.advance(masks.of([cast("_core.Delta", Delta(token, i + 1))]))
    if strict:
        assert core.errors
        assert "too large or too ambiguous" in core.errors[0]
    else:
        assert not core.errors
        assert b"" in core.masks.values()
        assert core.is_lifted
        assert "continues without the schemas" in caplog.text


ANYTHING = {"x": [1, "a", None]}


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "strin"}, "type"),
        ({"$ref": "https://example.com/x"}, "$ref"),
        ({"type": "number", "multipleOf": 0.00012345}, "multipleOf"),
        ({"pattern": "a(?!b)"}, "pattern"),
        ({"pattern": "("}, "pattern"),
        ({"patternProperties": {"^a": {}, "b$": True}}, "patternProperties"),
        ({"minProperties": 2}, "minProperties"),
        ({"minLength": "3"}, "minLength"),
        ({"anyOf": [5]}, "anyOf"),
        ({"items": "string"}, "items"),
        (5, "properties"),
    ],
)
def test_a_keyword_that_does_not_compile_leaves_the_rest_enforced(
    schema: Any, keyword: str
) -> None:
    integers = {"type": "array", "items": {"type": "integer"}}
    parameters = {"type": "object", "properties": {"a": schema, "b": integers}}
    guide = tools_guide(tool(parameters))
    assert guide.unenforced == (("f", keyword),)
    assert accepts(guide, {"a": 1, "b": [1, 2]})
    assert not accepts(guide, {"a": 1, "b": ["x"]})
    assert not accepts(guide, ANYTHING)
    with pytest.raises(InvalidRequestError, match=r"tool 'f'|minProperties") as raised:
        tools_guide(tool(parameters, strict=True))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("parameters", "keyword"),
    [
        ({"properties": []}, "properties"),
        ({"required": True}, "required"),
        ({"minProperties": 2}, "minProperties"),
        ({"type": "array", "items": {}}, "unsatisfiable"),
        ({"properties": {"a": False}, "required": ["a"]}, "unsatisfiable"),
        ({"type": "object", "not": {}}, "unsatisfiable"),
    ],
)
def test_a_tool_of_which_nothing_is_left_takes_any_object(parameters: Any, keyword: str) -> None:
    guide = tools_guide(tool(parameters))
    assert guide.unenforced == (("f", keyword),)
    assert accepts(guide, ANYTHING)
    assert not accepts(guide, [])


def test_what_is_not_supported_leaves_the_rest_enforced() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            "b": {"type": "string", "format": "iri"},
        },
    }
    guide = tools_guide(tool(parameters))
    assert guide.unenforced == (("f", "format"), ("f", "uniqueItems"))
    assert accepts(guide, {"a": [1, 1], "b": "x"})
    assert not accepts(guide, {"a": ["x"]})


def test_arguments_are_those_of_all_parts_of_the_schema() -> None:
    parameters = {
        "$ref": "#/definitions/call",
        "definitions": {
            "call": {
                "allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}],
                "oneOf": [
                    {"properties": {"k": {"const": 1}, "n": {"type": "integer"}}},
                    {"properties": {"k": {"const": 2}, "list": {"type": "array"}}},
                ],
            }
        },
    }
    guide = tools_guide(tool(parameters), apart=True)
    for value in (1, 2, 33, [1]):
        assert accepts(guide, value)
    assert not accepts(guide, "a")


def test_a_tool_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    log = UnenforcedLog()
    with caplog.at_level(logging.WARNING, "llamaherd.structured_output"):
        for _ in range(2):
            log.tell([("f", "not"), ("f", "if"), ("g", "not")])
    fields = [(record.__dict__["tool"], record.__dict__["keyword"]) for record in caplog.records]
    assert fields == [("f", "not, if"), ("g", "not")]


@pytest.mark.parametrize(
    ("error", "sentence", "keywords"),
    [
        (
            'Unimplemented keys: ["if", "not"]\n<non-verbose/>',
            "this use of if, not is not supported",
            ["if", "not"],
        ),
        (
            "regex parse error:\n    (a\n    ^\nerror: unclosed group",
            "a regular expression does not parse: unclosed group",
            ["pattern"],
        ),
        (
            "Unsatisfiable schema: required property 'a' is unsatisfiable",
            "no value conforms to it",
            ["unsatisfiable"],
        ),
        ("Invalid type: strin", "the type 'strin' is unknown", ["type"]),
        ("properties must be an object", "properties must be an object", ["properties"]),
        (
            "Parser Error: token \"}\" doesn't satisfy the grammar; byte '}' fails\n<state>x",
            "the output cannot be continued",
            ["schema"],
        ),
        (
            'at 1(8): unknown name: "x"\n   1 | start: x\n              ^\n',
            'unknown name: "x"',
            ["schema"],
        ),
        (
            "panic: end byte index 100 is not a char boundary",
            "llguidance fails on it; simplify it",
            ["schema"],
        ),
        ("schema too large", "it is too large or too ambiguous; simplify it", ["size"]),
        ("\n<state>\nTokens: x\n</state>", "Tokens: x", ["schema"]),
        ("x" * 1000, "x" * 200 + "...", ["schema"]),
        ("", "unknown error", ["schema"]),
    ],
)
def test_errors_become_one_sentence(error: str, sentence: str, keywords: list[str]) -> None:
    assert sentence_of(error) == sentence
    assert keywords_of(error) == keywords


def test_a_place_in_the_clients_text_is_told() -> None:
    rule = SamplingParams(lark="start: x y\nx: /a/").rule
    assert rule is not None
    with pytest.raises(InvalidRequestError, match='unknown name: "y" at line 1, column 8'):
        guides().make(rule)


def test_every_error_of_a_schema_is_one_sentence() -> None:
    schemas: list[Any] = [
        {"$ref": "#/none"},
        {"$ref": "other.json"},
        {"$ref": "#a"},
        {"pattern": "[z-a]"},
        {"pattern": "(a)\\1"},
        {"pattern": "\\bword\\b"},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "string", "pattern": "^a{1000}{1000}$"},
        {"properties": {"a": {"$ref": "#/properties/a", "type": "object"}}},
        {"enum": []},
        {"multipleOf": 0},
        {"type": "number", "minimum": 1e400},
        {"maxItems": 10**30},
    ]
    for schema in schemas:
        try:
            schema_guide(schema)
        except InvalidRequestError as error:
            text = str(error)
        else:
            continue
        assert "\n" not in text, text
        assert "<" not in text.replace("<=", ""), text
        assert len(text) < 400, text


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("^a(?=b)", ["^a(?=b)"]),
        ("^(?=.*[A-Z)])(?=.{3})x|y$", ["^(?=.*[A-Z)])(?=.{3})x|y$"]),
        ("^(?=.*[)])(?=.{3})(x|y)$", ["^(?:.*[)])", "^(?:.{3})", "^(x|y)$"]),
        ("^(?=a", ["^(?=a"]),
        ("^(?=a)*b", ["^(?=a)*b"]),
        ("^(?=\\))b", ["^(?:\\))", "^b"]),
    ],
)
def test_lookahead_at_the_beginning_is_split_off(pattern: str, parts: list[str]) -> None:
    assert without_lookaround(pattern) == parts


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("^a", "ab", True),
        ("^a", "ba", False),
        ("b$", "ab", True),
        ("", "x", True),
        ("\\d", "a1", True),
        ('"', 'a"b', True),
        ("\\\\", "a\\b", True),
        ("ö", "schön", True),
        ("^a", "a\nb", None),
        ("(?=a)", "a", None),
        ("(", "a", None),
        ("^(a+)+$", "a" * 60 + "!", False),
    ],
)
def test_patterns_are_matched_as_llguidance_does(
    pattern: str, name: str, expected: bool | None
) -> None:
    assert matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("any", "5", 5),
        ("any", "hi there", "hi there"),
        ("any", '[1, "a"]', [1, "a"]),
        ("any", "[1,", "[1,"),
        ("either", "null", None),
        ("either", "seven", "seven"),
        ("string", "5", "5"),
    ],
)
def test_arguments_written_as_text_have_the_types_of_their_schema(
    qwen3_coder: BatchEngine, name: str, text: str, value: Any
) -> None:
    properties = {
        "any": True,
        "either": {"type": ["string", "integer", "null"]},
        "string": {"type": "string", "enum": ["5"]},
    }
    options = ChatOptions(tools=[tool({"type": "object", "properties": properties})])
    rendered = qwen3_coder.apply_chat_template([{"role": "user", "content": "x"}], options)
    assert rendered.rule is not None
    assert qwen3_coder._table.guides.make(rendered.rule).unenforced == (("f", "enum"),)
    call = f"<tool_call>\n<function=f>\n<parameter={name}>\n{text}\n</parameter>\n</function>\n"
    reply = MessageReader(rendered.format).read_all(call + "</tool_call>")
    assert json.loads(reply.tool_calls[0].arguments) == {name: value}


@pytest.fixture(scope="module")
def qwen3_coder(model_path: Path) -> Iterator[BatchEngine]:
    template = FORMATS["qwen3_coder"]
    config = EngineConfig(n_ctx=512, n_threads=1, warmup=False, chat_template=template)
    with BatchEngine(model_path, config, progress=False) as engine:
        yield engine


RAISING = (
    "{%- if messages[0].content == 'bad' %}{{- raise_exception('Roles must alternate') }}"
    "{%- elif messages[0].content == 'worse' %}{{- messages[0].content | items }}{%- endif %}"
)


def test_errors_of_a_template_are_one_sentence(model_path: Path) -> None:
    config = EngineConfig(
        n_ctx=512, n_threads=1, warmup=False, chat_template=RAISING + TOOLS_AND_THOUGHTS
    )
    with BatchEngine(model_path, config, progress=False) as engine:
        for content, end in (("bad", "Roles must alternate"), ("worse", "for type String")):
            with pytest.raises(InvalidRequestError) as raised:
                engine.apply_chat_template([{"role": "user", "content": content}])
            text = str(raised.value)
            assert text.startswith("the chat template rejected the messages: ")
            assert text.endswith(end)
            assert "\n" not in text
            assert "messages[0]" not in text
        tools: Any = [{"type": "function", "name": "no function"}]
        with pytest.raises(InvalidRequestError, match="tools are invalid") as raised:
            engine.apply_chat_template(
                [{"role": "user", "content": "x"}], ChatOptions(tools=tools * 200)
            )
        assert len(str(raised.value)) < 500
        assert "\n" not in str(raised.value)


def test_a_mask_that_fails_is_told_in_one_sentence(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A grammar of which each step is more ambiguous than the last."""
    config = EngineConfig(n_ctx=512, n_threads=1, warmup=False)
    lark = 'start: x\nx: x x | x x x | "a" | "aa" | "aaa" | "b" x "a"'
    with BatchEngine(model_path, config, progress=False) as engine:
        params = SamplingParams(lark=lark, max_tokens=200, seed=1)
        result = engine.submit("aaaa", params).result(timeout=200)
    if result.finish_reason is FinishReason.ERROR:
        assert "\n" not in result.error
        assert "too large or too ambiguous" in result.error or "must take at most" in result.error
