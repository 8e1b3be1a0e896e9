"""Arguments of earlier tool calls that are not JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FORMATS, FamilyEngines
from llamaherd import BatchEngine, EngineConfig
from test_chat import user

CUT = '{"city": "Par'
# A template that takes arguments as a mapping.
MAPPING = """
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %}
{%- for name, value in call.function.arguments.items() %}<{{ name }}={{ value }}>{% endfor %}
{%- endfor %}{%- endfor %}"""
TEMPLATES = {**FORMATS, "mapping": MAPPING}


@pytest.fixture(scope="module")
def engines(model_path: Path) -> Iterator[FamilyEngines]:
    engines = FamilyEngines(model_path, TEMPLATES)
    yield engines
    engines.close()


def history(arguments: str) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": arguments}
    tool_call = {"type": "function", "id": "call_1", "function": function}
    return [
        user("Paris"),
        {"role": "assistant", "content": None, "tool_calls": [tool_call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "bad arguments"},
        user("Paris"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_every_template_takes_arguments_that_were_cut(family: str, engines: FamilyEngines) -> None:
    engine = engines.get(family)
    assert "Par" in engine.apply_chat_template(history(CUT)).text
    for empty in ("", " \n"):
        assert engine.apply_chat_template(history(empty)).text == (
            engine.apply_chat_template(history("{}")).text
        )
    for value in ("null", "[1]", '"text"', "3"):
        engine.apply_chat_template(history(value))


def test_arguments_that_are_no_json_reach_the_template_as_text(model_path: Path) -> None:
    plain = "{%- for m in messages %}{%- for c in m.tool_calls or [] %}[{{ c.function.arguments }}]"
    plain += "{%- endfor %}{%- endfor %}"
    for template, shown in (
        (plain, f"[{CUT}]"),
        (MAPPING, f"<arguments={CUT}>"),
    ):
        config = EngineConfig(n_ctx=256, n_threads=1, warmup=False, chat_template=template)
        with BatchEngine(model_path, config, progress=False) as engine:
            assert shown in engine.apply_chat_template(history(CUT)).text
