"""Which folders may include and import which."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
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
    "scheduler": "backend cache common cost request speculation",
    "engine": "backend cache common config cost request sampling scheduler telemetry",
    "kernels/common": "",
    "kernels/matmul": "kernels/common",
    "kernels/attention": "kernels/common",
    "kernels/x86": "kernels/attention kernels/common kernels/matmul",
    "kernels/ggml": "common kernels/attention kernels/common kernels/matmul",
    "llama/common": "backend common config kernels/common kernels/ggml",
    "llama/model": "common config kernels/ggml llama/common",
    "llama/chat": "common llama/common llama/model",
    "llama/backend": "backend common config kernels/ggml llama/common llama/model",
    "llama/testing": "backend llama/backend",
    "bindings": (
        "backend common config cost engine llama/backend llama/chat llama/common llama/model"
        " llama/testing sampling telemetry"
    ),
}
MOST_UNITS = 16  # a header and its source are one

# llamaherd stands for the names that the package exports.
MODULES: dict[str, str] = {
    "chat": "_core params prompt structured tool_schemas",
    "result": "_core chat",
    "logs": "_core",
    "config_file": "_core",
    "json_schema": "_core",
    "tool_schemas": "_core json_schema structured",
    "gbnf": "",
    "gbnf.nodes": "",
    "gbnf.parser": "_core gbnf.nodes",
    "gbnf.regular": "gbnf.nodes",
    "gbnf.recursion": "gbnf.nodes",
    "gbnf.heads": "gbnf.nodes",
    "gbnf.lexing": "gbnf.nodes",
    "gbnf.lark": (
        "_core gbnf.heads gbnf.lexing gbnf.nodes gbnf.parser gbnf.recursion gbnf.regular"
    ),
    "vocabulary": "_core",
    "guides": "_core bounded_pool gbnf.lark structured vocabulary",
    "masks": "_core bounded_pool guides",
    "structured": "_core json_schema",
    "params": "_core config_file structured",
    "models": "models.cache models.catalogue models.check models.resolve",
    "models.disk": "",
    "models.progress": "",
    "models.catalogue": "",
    "models.local_file": "_core",
    "models.pip_download": "_core models.catalogue models.progress",
    "models.cache": ("_core models.catalogue models.disk models.pip_download models.progress"),
    "models.hub": "_core models.disk models.local_file",
    "models.check": "_core models.cache models.local_file",
    "models.resolve": (
        "_core models.cache models.catalogue models.check models.hub models.local_file"
    ),
    "trial": "llamaherd _core models.check",
    "bounded_pool": "_core",
    "loading": "_core logs",
    "trace": "_core",
    "stream": "_core chat result",
    "prefix_cache": "_core stream",
    "calibration": "_core models params",
    "pump": "_core guides logs masks stream",
    "prompt": "",
    "engine": (
        "_core calibration chat loading logs models params prefix_cache prepared prompt pump stream"
        " trace"
    ),
    "embedder": "_core engine loading models params",
    "prepared": "_core chat guides masks params prompt structured",
    "run": "_core bars chat engine params prepared prompt result stream",
    "scoring": "_core engine params prompt result",
    "bars": "result",
    "llm": (
        "_core bars chat embedder engine loading params prefix_cache prompt result run scoring"
    ),
    "evaluation": "_core llm params scoring",
    "llamaherd": "_core chat embedder engine llm params prefix_cache result scoring stream",
    "workload_file": "_core",
    "workload": "_core prompt result workload_file",
    "replay": "_core engine params stream workload",
    "tuning_policy": "_core params replay workload",
    "tuning": "_core params replay tuning_policy",
    "cli.serve": (
        "cli.options server server.keys server.limits server.logs server.otel server.run"
        " server.spans"
    ),
    "server": "server.app server.pool server.settings",
    "server.app": (
        "_core server.batch_routes server.batches server.bodies server.chat_routes"
        " server.completion_routes server.errors server.file_routes server.generation"
        " server.guard server.in_process server.keys server.metrics server.page_routes"
        " server.pool server.responses_routes server.running server.settings server.spans"
        " server.state_routes server.token_routes server.vector_routes"
    ),
    "server.batch_input": "server.file_store server.limits",
    "server.batch_output": "",
    "server.batch_routes": (
        "server.answers server.batch_store server.batches server.bodies server.errors"
        " server.file_routes server.schemas"
    ),
    "server.batch_runner": (
        "server.batch_input server.batch_output server.batch_store server.errors"
        " server.file_store server.in_process server.isolation server.keys server.limits"
        " server.running"
    ),
    "server.batch_store": (
        "server.batch_input server.batch_output server.database server.errors server.file_store"
        " server.limits"
    ),
    "server.batches": (
        "_core params server.batch_runner server.batch_store server.database server.errors"
        " server.file_store server.in_process server.keys server.limits server.running"
    ),
    "server.answering": (
        "chat params prompt result server.disconnect server.generation server.json_stream"
        " server.schemas server.sse"
    ),
    "server.chat_routes": (
        "_core chat engine params result server.answering server.answers server.bodies"
        " server.generation server.json_stream server.logprobs server.schemas server.sse"
    ),
    "server.completion_routes": (
        "_core params prompt result server.answering server.answers server.bodies"
        " server.generation server.json_stream server.logprobs server.schemas server.sse"
    ),
    "server.database": "_core",
    "server.errors": "_core",
    "server.file_routes": (
        "server.answers server.batches server.errors server.file_store server.generation"
        " server.uploads"
    ),
    "server.file_quota": "server.limits",
    "server.file_store": "server.database server.errors server.file_quota server.limits",
    "server.generation": (
        "_core bounded_pool chat llm params prompt result server.body_reader server.errors"
        " server.keys server.metrics server.pool server.schemas server.settings server.spans"
        " stream"
    ),
    "server.guard": (
        "server.errors server.keys server.metrics server.origins server.running server.settings"
        " server.spans"
    ),
    "server.origins": "server.errors server.settings",
    "server.in_process": "server.errors server.keys server.spans",
    "server.isolation": "",
    "server.keys": "_core",
    "server.logprobs": "_core engine server.json_stream",
    "server.metrics": "_core server.recent",
    "server.page_routes": "server.errors server.generation server.page_state",
    "server.page_state": "llm server.generation server.keys server.pool stream",
    "server.pool": "_core bounded_pool llm models params server.errors",
    "server.recent": "",
    "server.responses_routes": (
        "_core chat params result server.answering server.answers server.bodies"
        " server.generation server.schemas server.sse"
    ),
    "server.run": (
        "_core server.batches server.descriptors server.generation server.listener server.protocol"
        " server.settings"
    ),
    "server.descriptors": "_core server.limits",
    "server.listener": "server.protocol",
    "server.settings": "_core server.limits",
    "server.limits": "_core params server.errors",
    "server.sse": "server.disconnect server.errors server.json_stream",
    "server.state_routes": (
        "bounded_pool server.answers server.errors server.generation server.pool"
    ),
    "server.token_routes": (
        "_core server.answers server.bodies server.chat_routes server.disconnect server.errors"
        " server.generation server.json_stream server.schemas"
    ),
    "server.vector_routes": (
        "_core embedder server.answers server.bodies server.disconnect server.generation"
        " server.json_stream server.schemas server.vectors"
    ),
    "server.uploads": "server.errors server.file_store server.limits",
    "server.logs": "",
    "server.protocol": "server.errors server.limits",
    "server.answers": "",
    "server.bodies": "server.generation server.json_bounds",
    "server.body_reader": "server.errors",
    "server.otel": "_core params server.spans",
    "server.running": "server.errors server.keys",
    "server.spans": "_core params",
    "server.vectors": "_core embedder server.errors",
    "server.json_bounds": "server.errors server.limits",
    "server.json_stream": "bounded_pool server.disconnect",
    "server.disconnect": "",
    "server.schemas": "",
    "cli.options": "models params",
    "cli.pull": "models",
    "cli.quantize": "_core models",
    "cli.info": "llamaherd _core calibration cli.options models params",
    "cli.chat": "llamaherd cli.options",
    "cli.demo": "llamaherd cli.options",
    "cli.generate": "llamaherd cli.options prompt stream workload",
    "cli.tune": "llamaherd cli.options params replay tuning tuning_policy workload",
    "scrape": "_core",
    "cli.top": "cli.options scrape",
    "answered": "replay",
    "bench": "",
    "bench.contestant": "answered bench.scenario",
    "bench.environment": "_core",
    "bench.field": (
        "answered bench.contestant bench.process_log bench.scenario bench.servers bench.worker load"
    ),
    "bench.figures": "bench.servers",
    "bench.herd": "answered bench.contestant bench.scenario llamaherd",
    "bench.llama_cpp_python": "answered bench.contestant bench.scenario",
    "bench.openvino": "answered bench.contestant bench.scenario",
    "bench.plots": "bench.figures",
    "bench.process_log": "",
    "bench.report": "_core bench.figures bench.plots bench.tables",
    "bench.rounds": (
        "answered bench.contestant bench.field bench.scenario bench.scenarios bench.servers"
        " bench.traces"
    ),
    "bench.scenario": "",
    "bench.scenarios": "_core bench.scenario loops words",
    "bench.servers": "bench.contestant bench.process_log",
    "bench.tables": "bench.figures",
    "bench.traces": "_core bench.scenario bench.scenarios words",
    "bench.worker": (
        "answered bench.contestant bench.herd bench.llama_cpp_python bench.openvino"
        " bench.scenario loops"
    ),
    "cli": (
        "cli.bench cli.bench_serve cli.chat cli.demo cli.generate cli.info cli.pull"
        " cli.quantize cli.serve cli.top cli.tune llamaherd"
    ),
    "cli.bench": (
        "_core bench.environment bench.field bench.report bench.rounds bench.scenarios"
        " bench.servers bench.tables cli.options models"
    ),
    "cli.bench_serve": "answered cli.options load",
    "load": "_core answered loops words",
    "words": "",
    "loops": "answered",
    "cli.__main__": "cli",
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


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts) or "llamaherd"] = path
    return found


def re_exported(package: str) -> set[str]:
    """Names that a package takes from its modules; they hide a module of the same name."""
    prefix = f"llamaherd.{package}."
    return {
        alias.name
        for node in ast.walk(ast.parse(modules()[package].read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(prefix)
        for alias in node.names
    }


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, anywhere in it."""
    known = {*modules(), "_core"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "llamaherd":
                continue
            inner = name.removeprefix("llamaherd").removeprefix(".")
            while inner and inner not in known:
                inner = inner.rpartition(".")[0]
            package, _, last = inner.rpartition(".")
            if package and getattr(node, "module", "") == f"llamaherd.{package}":
                inner = package if last in re_exported(package) else inner
            yield inner or "llamaherd"


@pytest.mark.parametrize("name", list(modules()))
def test_module_imports_only_what_lies_below(name: str) -> None:
    assert name in MODULES, f"{name} is new: say in this table what it may import"
    assert set(imports(modules()[name])) == set(MODULES[name].split())


def test_the_table_of_imports_is_exact_and_has_no_cycle() -> None:
    assert set(MODULES) == set(modules())
    edges = {name: set(allowed.split()) for name, allowed in MODULES.items()}
    order = list(TopologicalSorter(edges).static_order())
    layers = ["_core", "result", "stream", "engine", "llm", "llamaherd", "cli"]
    positions = [order.index(name) for name in layers]
    assert positions == sorted(positions)
