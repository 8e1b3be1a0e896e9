"""Grammars, expressions and schemas that are deep, large, or expand exponentially."""

from __future__ import annotations

from typing import Any

from attacks.attack import (
    CHAT,
    COMPLETIONS,
    EITHER,
    REFUSED,
    Attack,
    chat,
    completion,
    object_of,
    post,
    post_unique,
    schema_format,
    tool,
)

REVERSED = {"type": "string", "minLength": 3, "maxLength": 1}


def grammar(name: str, text: str, allowed: frozenset[int] = EITHER) -> Attack:
    return Attack(name, "grammars", post(COMPLETIONS, lambda: completion(grammar=text)), allowed)


def doubling(n: int) -> str:
    rules = [f"r{i} ::= r{i + 1} r{i + 1} | r{i + 1}" for i in range(n)]
    return "\n".join(["root ::= r0", *rules, f'r{n} ::= "a"'])


def called_with(parameters: Any) -> Any:
    return lambda: chat(tools=[tool(parameters)], tool_choice="required", max_tokens=20)


def answer_of(schema: Any) -> Any:
    return lambda: chat(response_format=schema_format(schema), max_tokens=20)


def schema(name: str, value: Any, allowed: frozenset[int] = EITHER) -> list[Attack]:
    """The schema as response format and as parameters of a tool."""
    return [
        Attack(f"schema: {name}", "schemas", post(CHAT, answer_of(value)), allowed),
        Attack(
            f"tool: {name}",
            "tools",
            post(CHAT, called_with(object_of(x=value))),
            allowed,
            needs="tools",
        ),
    ]


def nested_schema(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        value = object_of(a=value)
    return value


def unions(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for i in range(depth):
        value = {"anyOf": [object_of(**{f"k{i}": value}), object_of(**{f"k{i}": value, "b": {}})]}
    return value


def expression(name: str, text: str) -> Attack:
    return Attack(
        f"regex: {name}", "expressions", post(COMPLETIONS, lambda: completion(regex=text)), EITHER
    )


def lark(name: str, text: str) -> Attack:
    return Attack(
        f"lark: {name}", "expressions", post(COMPLETIONS, lambda: completion(lark=text)), EITHER
    )


ATTACKS = [
    grammar("20,000 nested groups", "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, REFUSED),
    grammar("20,000 open groups", "root ::= " + "(" * 20_000, REFUSED),
    grammar("nested classes", "root ::= " + "[" * 20_000, REFUSED),
    grammar("reversed repetition", 'root ::= "a"{3,1}', REFUSED),
    grammar("reversed repetition of a group", 'root ::= ("a" "b")*{3,1}', REFUSED),
    grammar("huge repetition", 'root ::= "a"{0,4294967295}'),
    grammar("repetition out of range", 'root ::= "a"{99999999999999999999999}', REFUSED),
    grammar("nested repetitions", "root ::= " + "(" * 6 + '"a"' + "{0,1000})" * 6),
    grammar("30 optional characters", "root ::= " + "[a-z ]? " * 30),
    grammar("300 optional characters", "root ::= " + "[a-z ]? " * 300),
    grammar("3,000 alternatives", "root ::= (" + " | ".join(f'"a{i}"' for i in range(3000)) + ")+"),
    grammar("nested stars", "root ::= " + "(" * 40 + '"a"' + "*)" * 40),
    grammar("forty doubling rules", doubling(40)),
    grammar("left recursion", 'root ::= root "a" | "a"'),
    grammar("ambiguous recursion", 'root ::= root root | "a" | ""'),
    grammar("a rule of itself", "root ::= root", REFUSED | EITHER),
    grammar("rules that are missing", "root ::= missing", REFUSED),
    grammar("60,000 rules", "\n".join(f'r{i} ::= "a"' for i in range(5000)) + "\nroot ::= r1"),
    grammar("a literal of 60 KB", 'root ::= "' + "a" * 60_000 + '"'),
    grammar("a class of 20,000 ranges", "root ::= [" + "a-z" * 20_000 + "]+"),
    grammar("control characters", 'root ::= "\x00\x01\x1b[31m"+'),
    *schema("minLength over maxLength", REVERSED, REFUSED),
    *schema("minItems over maxItems", {"type": "array", "minItems": 5, "maxItems": 1}, REFUSED),
    *schema("minItems of a billion", {"type": "array", "items": {}, "minItems": 10**9}),
    *schema("maxLength of 10^18", {"type": "string", "maxLength": 10**18}),
    *schema("minLength of a million", {"type": "string", "minLength": 10**6}),
    *schema("multipleOf 999983", {"type": "integer", "multipleOf": 999983}),
    *schema("multipleOf 1e-300", {"type": "number", "multipleOf": 1e-300}),
    *schema(
        "range of huge numbers", {"type": "integer", "minimum": -(10**300), "maximum": 10**300}
    ),
    *schema("range of long fractions", {"type": "number", "minimum": 1e-300, "maximum": 1e300}),
    *schema("2,000 properties", object_of(**{f"p{i}": {"type": "string"} for i in range(2000)})),
    *schema(
        "2,000 optional properties",
        {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(2000)}},
    ),
    *schema("100,000 values", {"enum": [f"v{i}" for i in range(100_000)]}),
    *schema("nested 60 deep", nested_schema(30)),
    *schema("nested 2,000 deep", nested_schema(900), REFUSED),
    *schema("unions, 2^12", unions(10)),
    *schema("a reference to itself", {"$ref": "#"}),
    *schema("references in a ring", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    *schema("references elsewhere", {"$ref": "http://127.0.0.1:1/x.json"}, REFUSED),
    *schema("500 allOf", {"allOf": [{"type": "string", "minLength": i} for i in range(500)]}),
    *schema("nested groups in a pattern", {"type": "string", "pattern": "(" * 5000 + ")" * 5000}),
    *schema("a pattern that explodes", {"type": "string", "pattern": "^(.{0,200}){0,200}$"}),
    *schema(
        "500 pattern properties",
        {"patternProperties": {f"^{i}.*{i}$": {"type": "string"} for i in range(500)}},
    ),
    *schema("a format that explodes", {"type": "string", "format": "idn-email", "minLength": 999}),
    expression("counted thrice", "((a{0,500}){0,500}){0,500}"),
    expression("optional 200 times", "(a?){200}a{200}"),
    expression("any character 60,000 times", ".{60000}"),
    expression("words that overlap", r"(\w+\s*)*" * 20 + "x"),
    expression("20,000 nested groups", "(" * 20_000 + ")" * 20_000),
    expression("open", "(" * 20_000),
    expression("a class of all of Unicode", r"[\p{L}\p{N}&&[^\p{Lu}]]{1000}"),
    expression("look-around", "(?=a)b(?<!c)"),
    lark("ambiguous", 'start: start start | "a" | ""'),
    lark("a terminal that explodes", "start: /(.{0,300}){0,300}/"),
    lark("nested groups", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    lark("a special token", "start: <|im_end|> start"),
    lark(
        "intersections", "start: A\n" + "A: " + " & ".join(f"/.*a.{{{i}}}b.*/" for i in range(30))
    ),
    Attack(
        "choice of 100,000 texts",
        "expressions",
        post(COMPLETIONS, lambda: completion(choice=[f"text {i}" for i in range(100_000)])),
        EITHER,
    ),
    Attack(
        "choice of a text of 1 MB",
        "expressions",
        post(COMPLETIONS, lambda: completion(choice=["x" * 1_000_000])),
        EITHER,
    ),
    Attack(
        "5,000 tools",
        "tools",
        post(CHAT, lambda: chat(tools=[tool(name=f"f{i}") for i in range(5000)])),
        EITHER,
        needs="tools",
    ),
    Attack(
        "100 tools of 90 properties",
        "tools",
        post_unique(
            CHAT,
            lambda unique: chat(
                tools=[
                    tool(object_of(**{f"p{j}": {"type": "string"} for j in range(90)}), f"f{i}")
                    for i in range(100)
                ],
                tool_choice="required",
                max_tokens=20,
                user=f"bad-{unique}",
            ),
        ),
        EITHER,
        needs="tools",
    ),
    Attack(
        "distinct schemas",
        "schemas",
        post_unique(
            CHAT,
            lambda unique: chat(
                response_format=schema_format(object_of(**{f"p{unique}": {"type": "string"}})),
                max_tokens=2,
            ),
        ),
        EITHER,
        n_clients=16,
    ),
    Attack(
        "distinct grammars",
        "grammars",
        post_unique(
            COMPLETIONS,
            lambda unique: completion(grammar=f'root ::= "{unique}" [a-z]+', max_tokens=2),
        ),
        EITHER,
        n_clients=16,
    ),
    Attack(
        "distinct tools",
        "tools",
        post_unique(
            CHAT,
            lambda unique: chat(
                tools=[tool(object_of(**{f"p{unique}": {"type": "string"}}))], max_tokens=2
            ),
        ),
        EITHER,
        n_clients=16,
        needs="tools",
    ),
    Attack(
        "slow grammars, distinct",
        "grammars",
        post_unique(
            COMPLETIONS,
            lambda unique: completion(grammar=f'{doubling(40)}\nx ::= "{unique}"'),
        ),
        EITHER,
        n_clients=8,
    ),
    Attack(
        "a grammar that never ends",
        "grammars",
        post(
            COMPLETIONS,
            lambda: completion(grammar="root ::= [a-z ]*" * 1, max_tokens=4000),
            patience_s=5,
        ),
        EITHER,
        quick=False,
    ),
]
