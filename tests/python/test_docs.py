"""The documents' code runs, and the names in them exist."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import llamaherd
import pytest
from conftest import skip_or_fail
from serving import Served, serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *PAGES})
_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Titles of python and bash blocks that need a server on port 8000. Blocks of other titles are not
# run: they use other packages (vLLM, lm-evaluation-harness, ...), which are not installed.
_CLIENT = ("client", "curl")


def blocks(language: str, *titles: str) -> list[object]:
    """Code of the pages, as parameters named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match[1] == language and match[2] in (titles or (None,)):
                line = text.count("\n", 0, match.start()) + 1
                where = f"{page.relative_to(ROOT).with_suffix('')}-{line}"
                found.append(pytest.param(match[3], id=where))
    return found


def require_clean_run(command: list[str]) -> None:
    """It exits with 0, prints something, and nothing on stderr."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, model_path: Path) -> None:
    require_clean_run([sys.executable, "-c", code])


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("data")
    with serve("smollm2-135m-instruct", options=("--data-dir", str(folder))) as server:
        yield server


def at_its_port(code: str, server: Served) -> str:
    port = server.url.rpartition(":")[2]
    assert ":8000" in code
    return code.replace(":8000", f":{port}")


@pytest.mark.parametrize("code", blocks("python", *_CLIENT))
def test_clients_run(code: str, server: Served) -> None:
    require_clean_run([sys.executable, "-c", at_its_port(code, server)])


@pytest.mark.parametrize("code", blocks("bash", *_CLIENT))
def test_curl_blocks_run(code: str, server: Served) -> None:
    code = at_its_port(code, server).replace("curl ", "curl --silent --show-error --fail ")
    require_clean_run(["bash", "-ec", code])


@functools.cache
def help_of(*command: str) -> str:
    """The help of a command, in lines long enough for its longest option."""
    return subprocess.run(
        [sys.executable, "-m", "llamaherd.cli", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"},
    ).stdout


def commands() -> list[object]:
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language, _, code in _FENCE.findall(text):
            if language == "bash":
                for line in re.findall(r"\bllamaherd ([a-z].*)", code.replace("\\\n", " ")):
                    found[re.split(r" [>|&] ?", line)[0]] = None
        # Inline: `llamaherd generate --trace out.json`.
        for line in re.findall(r"`llamaherd ([a-z][^`\n]*)`", text):
            found[line] = None
    return [pytest.param(line, id=line) for line in found]


@pytest.mark.parametrize("line", commands())
def test_commands_and_their_options_exist(line: str) -> None:
    name, *words = shlex.split(line)
    assert re.search(rf"^\W*{name}\b", help_of(), re.MULTILINE), f"there is no llamaherd {name}"
    for word in words:
        if word.startswith("-"):
            option = re.escape(word.partition("=")[0])
            found = re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(name))
            assert found, f"llamaherd {name} has no option {word}"


def test_options_in_python_exist() -> None:
    config = set(llamaherd.EngineConfig.__dataclass_fields__)
    params = set(llamaherd.SamplingParams.__dataclass_fields__)
    # Other packages have a SamplingParams too.
    ours = [
        _FENCE.sub(lambda m: "" if m[2] not in (None, *_CLIENT) else m[0], page.read_text("utf-8"))
        for page in PAGES
    ]
    for name, arguments in re.findall(
        r"(EngineConfig|SamplingParams)\(((?:[^()]|\([^()]*\))*)\)", "\n".join(ours)
    ):
        known = config if name == "EngineConfig" else params
        flat = re.sub(r"\([^()]*\)|\{[^{}]*\}|\"[^\"]*\"|'[^']*'", "", arguments)
        assert set(re.findall(r"(\w+)=", flat)) <= known


def test_files_named_in_documents_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        folders = "csrc|bench|vendor|tests|tools|cmake|docs|deploy"
        for path in re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", text):
            assert (ROOT / path).exists(), f"{document.name} names {path}"


def test_the_life_of_a_token_names_functions_that_exist() -> None:
    text = (ROOT / "csrc" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/.]+\.(?:cpp|h|py))::(\w+)`", text)
    assert len(named) >= 12
    for file, function in named:
        folder = ROOT if file.startswith("python/") else ROOT / "csrc"
        source = (folder / file).read_text(encoding="utf-8")
        assert re.search(rf"\b{function}\(", source), f"{file} has no {function}"


def test_the_readmes_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(((?!https?:)[^)#\s]+)(?:#([\w-]+))?\)", text)
    assert len(targets) > 20
    for path, anchor in targets:
        assert (ROOT / path).is_file(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w]+", "-", h.lower()).strip("-") for h in headings}


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    "tool", ["make_reference.py", "make_limits_page.py", "make_fields_page.py"]
)
def test_generated_pages_are_up_to_date(tool: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / tool), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"run python tools/{tool}\n{done.stdout}{done.stderr}"


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "python-api.md").read_text(encoding="utf-8")
    missing = [n for n in llamaherd.__all__ if n[0] != "_" and not re.search(rf"\b{n}\b", text)]
    assert not missing


def test_every_environment_variable_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "environment-variables.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "python").rglob("*.py"), *(ROOT / "csrc").rglob("*.cpp")]
    for source in sources:
        for name in re.findall(r"\"(LLAMAHERD_[A-Z_]+)\"", source.read_text(encoding="utf-8")):
            assert f"`{name}`" in text, f"{source.name} reads {name}"


def test_every_metric_on_the_monitoring_page_exists() -> None:
    text = (ROOT / "docs" / "operations" / "monitoring.md").read_text(encoding="utf-8")
    known = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`(llamaherd_\w+)`", text)):
        assert f"`{name}`" in known, f"there is no metric {name}"


def test_the_site_builds(tmp_path: Path) -> None:
    """Strict: a link, an anchor or a page that leads nowhere fails it."""
    try:
        import mkdocs  # noqa: F401
    except ModuleNotFoundError:
        skip_or_fail("MkDocs is not installed: pip install -r docs/requirements.txt")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
