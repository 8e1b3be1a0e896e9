"""What the documents show works, and what they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import llamaherd
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md")])


def python_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", python_blocks(), ids=lambda code: code.splitlines()[0])
def test_the_readmes_code_runs(code: str, model_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert result.stderr == ""


def test_the_life_of_a_token_names_functions_that_exist() -> None:
    text = (ROOT / "csrc" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/.]+\.(?:cpp|h|py))::(\w+)`", text)
    assert len(named) >= 12
    for file, function in named:
        folder = ROOT if file.startswith("python/") else ROOT / "csrc"
        source = (folder / file).read_text(encoding="utf-8")
        assert re.search(rf"\b{function}\(", source), f"{file} has no {function}"


def test_options_that_the_readme_shows_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    config = set(llamaherd.EngineConfig.__dataclass_fields__)
    params = set(llamaherd.SamplingParams.__dataclass_fields__)
    for name, arguments in re.findall(r"(EngineConfig|SamplingParams)\(([^()]*)\)", text):
        known = config if name == "EngineConfig" else params
        assert set(re.findall(r"(\w+)=", arguments)) <= known


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:csrc|bench|vendor|tests|tools|cmake)/[\w./]+\.\w+)`", text):
            assert (ROOT / path).exists(), f"{document.name} names {path}"


def test_the_readmes_commands_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    help_text = subprocess.run(
        [sys.executable, "-m", "llamaherd.cli", "--help"], capture_output=True, text=True
    ).stdout
    names = "demo|generate|chat|info|quantize|pull|tune"
    for command in set(re.findall(rf"llamaherd ({names})\b", text)):
        assert command in help_text
