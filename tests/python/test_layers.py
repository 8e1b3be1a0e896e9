"""Which folders may include and import which."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "llamaherd"

# What a folder of csrc/ may include, besides its own files.
FOLDERS: dict[str, str] = {
    "common": "",
    "config": "common",
    "telemetry": "common",
    "backend": "common",
    "cost": "backend common",
    "sampling": "common config",
    "speculation": "common cost",
    "cache": "backend common cost telemetry",
    "request": "common config sampling speculation telemetry",
    "scheduler": "cache common cost request speculation",
    "engine": "backend cache common config cost request sampling scheduler telemetry",
    "kernels/common": "",
    "kernels/matmul": "kernels/common",
    "kernels/attention": "kernels/common",
    "kernels/x86": "kernels/attention kernels/common kernels/matmul",
    "kernels/ggml": "common kernels/attention kernels/common kernels/matmul",
    "llama/common": "backend common config kernels/common kernels/ggml",
    "llama/model": "common config kernels/ggml llama/common",
    "llama/chat": "common llama/common llama/model",
    "llama/message": "llama/chat",
    "llama/backend": "backend common config kernels/ggml llama/common llama/model",
    "llama/testing": "backend llama/backend",
    "runtime": (
        "backend common config cost engine llama/backend llama/chat llama/common llama/model"
        " llama/testing"
    ),
    "bindings": (
        "backend common config cost llama/backend llama/chat llama/common llama/message llama/model"
        " runtime sampling telemetry"
    ),
}
MOST_UNITS = 16  # a header and its source are one

# What a folder of the package may import, besides its own modules: "." are the leaves beside
# __init__.py, "llamaherd" is the package's face.
FACE = {"__init__.py", "trial_load.py"}
PACKAGES: dict[str, str] = {
    "models": "",
    ".": "",
    "structured_output/gbnf": "",
    "structured_output/schemas": "",
    "structured_output": ". structured_output/gbnf structured_output/schemas",
    "config": ". structured_output",
    "request": ". structured_output",
    "server/common": "config",
    "server/observability": "config",
    "engine": ". config models request structured_output",
    "server/access": "server/common server/observability",
    "offline": ". config engine models request",
    "server/api": ". engine server/common",
    "tuning": ". config engine request",
    "llamaherd": ". config engine models offline request",
    "integrations": "config offline",
    "server/jobs": (
        ". config engine models offline request server/api server/common server/observability"
    ),
    "benchmark/load": ".",
    "benchmark/contestants": "benchmark/load llamaherd",
    "benchmark/reporting": "benchmark/contestants",
    "benchmark": "benchmark/contestants benchmark/load",
    "server/routes": (
        ". config engine offline request server/access server/api server/common server/jobs"
    ),
    "server/batch_api": (
        "config server/access server/api server/common server/jobs server/observability"
        " server/routes"
    ),
    "server": (
        "server/access server/batch_api server/common server/jobs server/observability"
        " server/routes"
    ),
    "cli": (
        ". benchmark benchmark/contestants benchmark/load benchmark/reporting config engine"
        " llamaherd models request server server/access server/common server/observability tuning"
    ),
}


def sources() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".inc", ".cuh", ".cu"})


def folder_of(path: Path) -> str:
    return path.parent.relative_to(CSRC).as_posix()


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.MULTILINE)


def folders_included(path: Path) -> set[str]:
    found = {folder_of(CSRC / name) for name in includes(path) if (CSRC / name).is_file()}
    return found - {folder_of(path)}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CSRC)))
def test_file_includes_only_what_its_folder_allows(path: Path) -> None:
    assert folders_included(path) <= set(FOLDERS[folder_of(path)].split())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CSRC)))
def test_own_files_are_included_with_their_folder(path: Path) -> None:
    beside = {name for name in includes(path) if (path.parent / name).is_file()}
    # llama.cpp's own source includes this one, without our include directory.
    assert beside <= ({"template_budget.h"} if path.name == "template_steps.h" else set())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CSRC)))
def test_llama_cpp_and_pybind11_stay_in_their_folders(path: Path) -> None:
    top = folder_of(path).split("/")[0]
    others = [name for name in includes(path) if not (CSRC / name).is_file()]
    if top != "bindings":
        assert not [name for name in others if name.startswith(("pybind11/", "Python.h"))]
    if top not in {"llama", "kernels", "bindings"}:
        # What is left are C headers of the system.
        headers = {name for name in others if name.endswith(".h")}
        assert headers <= {"fcntl.h", "sys/stat.h", "sys/types.h", "unistd.h"}


def test_the_folders_of_csrc_are_exact_small_and_without_a_circle() -> None:
    used: dict[str, set[str]] = {}
    units: dict[str, set[str]] = {}
    for path in sources():
        used.setdefault(folder_of(path), set()).update(folders_included(path))
        units.setdefault(folder_of(path), set()).add(path.stem)
    assert used == {folder: set(allowed.split()) for folder, allowed in FOLDERS.items()}
    TopologicalSorter(used).prepare()
    assert {f: len(u) for f, u in units.items() if len(u) > MOST_UNITS} == {}


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    folder = path.parent.relative_to(PACKAGE).as_posix()
    return "llamaherd" if folder == "." and path.name in FACE else folder


def imported_file(name: str) -> Path:
    """The file of the longest part of a dotted name that is a module."""
    parts = name.split(".")[1:]
    while parts:
        for file in (PACKAGE.joinpath(*parts).with_suffix(".py"), PACKAGE.joinpath(*parts)):
            if file.is_file():
                return file
            if file.is_dir():
                return file / "__init__.py"
        parts.pop()
    return PACKAGE / "__init__.py"


def packages_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "llamaherd" and not name.startswith("llamaherd._core"):
                found.add(package_of(imported_file(name)))
    return found - {package_of(path)}


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_its_folder_allows(path: Path) -> None:
    assert packages_imported(path) <= set(PACKAGES[package_of(path)].split())


def test_jobs_can_be_made_by_any_protocol() -> None:
    files = [*PACKAGE.joinpath("server", "jobs").glob("*.py")]
    assert files
    for path in files:
        assert not re.search(r"^(from|import) (starlette|fastapi)", path.read_text(), re.MULTILINE)


def test_the_folders_of_the_package_are_exact_small_and_without_a_circle() -> None:
    used: dict[str, set[str]] = {}
    modules: dict[str, int] = {}
    for path in package_files():
        used.setdefault(package_of(path), set()).update(packages_imported(path))
        modules[package_of(path)] = modules.get(package_of(path), 0) + 1
    assert used == {folder: set(allowed.split()) for folder, allowed in PACKAGES.items()}
    TopologicalSorter(used).prepare()
    assert {f: n for f, n in modules.items() if n > MOST_UNITS + 1} == {}
