"""Who may include and import whom. A new file needs a line here; a new edge needs a reason."""

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

# A header and its source file are one unit; each unit's own header is not listed.
CORE: dict[str, str] = {
    "short_list": "",
    "types": "short_list",
    "error": "",
    "checksum": "",
    "costs": "",
    "eviction": "",
    "metrics": "",
    "forecast": "",
    "watchdog": "",
    "thread_governor": "",
    "trace_log": "types",
    "preemption": "types",
    "shared_value": "",
    "stop_strings": "shared_value",
    "text_stream": "stop_strings",
    "json_depth": "",
    "params": "types error stop_strings",
    "token_table": "types",
    "kv_block": "types",
    "common_length": "types",
    "radix_tree": "common_length types",
    "in_flight": "costs types",
    "cost_model": "costs error types",
    "widths": "cost_model",
    "packing": "cost_model types widths",
    "backend": "kv_block types",
    "invariants": "types",
    "logits_math": "types",
    "seq_pool": "types",
    "disk_file": "checksum types",
    "disk_tier": "checksum disk_file error types",
    "block_store": "disk_tier kv_block types",
    "prefix_cache": "backend metrics types",
    "prompt_logits": "prefix_cache types",
    "radix_cache": "block_store costs eviction prefix_cache radix_tree seq_pool",
    "radix_evict": "radix_cache",
    "radix_tiers": "radix_cache",
    "radix_audit": "radix_cache",
    "snapshot_cache": "common_length eviction prefix_cache seq_pool",
    "make_cache": "backend costs prefix_cache radix_cache snapshot_cache",
    "step_plan": "types backend",
    "top_tokens": "types logits_math",
    "logprobs": "top_tokens types logits_math",
    "sampler": "types params shared_value token_table logits_math top_tokens",
    "staged": "types",
    "constraint": "token_table types",
    "prompt_lookup": "types",
    "drafts": "cost_model types",
    "constrained": "constraint sampler staged top_tokens",
    "call_rows": "request step_plan",
    "call_sampler": "backend constrained logprobs request staged step_plan top_tokens",
    "request": (
        "constraint drafts types params shared_value token_table sampler text_stream trace_log"
    ),
    "request_queue": "request types",
    "batch_builder": "backend step_plan request",
    "step_guard": "backend prefix_cache step_plan request staged",
    "scheduler": (
        "call_rows cost_model drafts packing preemption prefix_cache prompt_logits prompt_lookup"
        " request request_queue seq_pool step_plan"
    ),
    "admission": "common_length in_flight scheduler",
    "engine": (
        "backend batch_builder call_sampler constraint cost_model forecast invariants make_cache"
        " metrics prefix_cache prompt_logits scheduler seq_pool step_guard thread_governor"
        " token_table trace_log watchdog"
    ),
    "recovery": "call_rows engine",
    "accounting": "engine",
    "late_masks": "engine",
    "pin_table": "error",
    "engine_thread": "backend constraint engine error params pin_table token_table",
    "logits_record": "backend",
    "fault_script": "types",
    "calibration": "backend cost_model error widths",
}
_INSTRUCTIONS = "kernels/instruction_set kernels/kernel_table"
LLAMA: dict[str, str] = {
    "llama/log_sink": "",
    "llama/devices": "error kernels/hook llama/log_sink",
    "llama/kernel_choice": "error params kernels/hook kernels/mode",
    "llama/thread_pool": "backend kernels/hook kernels/mode",
    "llama/special_tokens": "types",
    "llama/tokenizer": (
        "error types llama/abort_guard llama/deep_stack llama/log_sink llama/special_tokens"
    ),
    "llama/abort_guard": "",
    "llama/gguf_file": "error llama/abort_guard llama/log_sink",
    "llama/load_rule": "error",
    "llama/tokenizer_check": "llama/gguf_file llama/load_rule",
    "llama/gguf_check": ("llama/abort_guard llama/gguf_file llama/load_rule llama/tokenizer_check"),
    "llama/model_check": "llama/load_rule",
    "llama/llama_model": (
        "error params token_table kernels/panel_buffer llama/abort_guard llama/devices"
        " llama/gguf_check llama/kernel_choice llama/load_rule llama/log_sink llama/model_check"
        " llama/thread_pool llama/tokenizer"
    ),
    "llama/chat_format": "error llama/deep_stack llama/llama_model",
    "llama/chat_formats": "llama/chat_format",
    "llama/deep_stack": "error",
    "llama/template_budget": "",
    "llama/template_steps": "llama/template_budget",
    "llama/template_probe": "error",
    "llama/chat_template": (
        "error json_depth llama/chat_formats llama/llama_model llama/template_budget"
        " llama/template_probe"
    ),
    "llama/context": "error llama/abort_guard llama/llama_model llama/log_sink llama/thread_pool",
    "llama/embedder": (
        "error params kernels/hook llama/context llama/kernel_choice llama/llama_model"
        " llama/log_sink llama/thread_pool"
    ),
    "llama/fingerprint": "checksum error params llama/llama_model",
    "llama/quantize": "error llama/abort_guard llama/devices llama/gguf_check llama/log_sink",
    "llama/llama_backend": (
        "backend error params kernels/hook llama/context llama/kernel_choice llama/llama_model"
        " llama/log_sink llama/model_check llama/thread_pool"
    ),
    "llama/faulty_backend": "backend fault_script llama/llama_backend",
    "kernels/mode": "",
    "kernels/whole_lines": "",
    "kernels/split_row": "",
    "kernels/kernel_table": "kernels/mode",
    "kernels/panels": "",
    "kernels/attention_op": "",
    "kernels/tensor_at": "",
    "kernels/huge_pages": "",
    "kernels/attention_scratch": "kernels/kernel_table kernels/whole_lines",
    "kernels/workspace": "kernels/whole_lines",
    "kernels/cell_order": "kernels/workspace",
    "kernels/cache_orders": "kernels/cell_order",
    "kernels/pool_state": "kernels/cache_orders kernels/mode kernels/workspace",
    "kernels/simd_avx2": "",
    "kernels/direct_sum": "",
    "kernels/simd_avx512": "kernels/direct_sum",
    "kernels/unrolled": "",
    "kernels/matmul_kernel": "kernels/kernel_table kernels/panels kernels/unrolled",
    "kernels/attention_kernel": "kernels/attention_scratch kernels/kernel_table",
    "kernels/instruction_set": (
        "kernels/attention_kernel kernels/kernel_table kernels/matmul_kernel"
    ),
    "kernels/avx2": _INSTRUCTIONS + " kernels/simd_avx2",
    "kernels/simd_avx_vnni": "kernels/direct_sum kernels/simd_avx2",
    "kernels/avx_vnni": _INSTRUCTIONS + " kernels/simd_avx_vnni",
    "kernels/avx512": _INSTRUCTIONS + " kernels/simd_avx512",
    "kernels/tiles": "",
    "kernels/tile_kernel": "kernels/kernel_table kernels/panels kernels/split_row kernels/tiles",
    "kernels/byte_tile_kernel": (
        "kernels/kernel_table kernels/matmul_kernel kernels/panels kernels/simd_avx512"
        " kernels/tiles"
    ),
    "kernels/amx": "kernels/byte_tile_kernel kernels/kernel_table kernels/tile_kernel",
    "kernels/visible_blocks": (
        "kernels/cell_order kernels/kernel_table kernels/tensor_at kernels/whole_lines"
    ),
    "kernels/attention": (
        "kernels/attention_op kernels/attention_scratch kernels/kernel_table kernels/pool_state"
        " kernels/tensor_at kernels/visible_blocks"
    ),
    "kernels/matmul": (
        "kernels/kernel_table kernels/panels kernels/pool_state kernels/split_row"
        " kernels/tensor_at kernels/whole_lines"
    ),
    "kernels/panel_buffer": "kernels/huge_pages kernels/mode kernels/panels",
    "kernels/reference": "kernels/attention_op kernels/tensor_at",
    "kernels/hook": (
        "error kernels/attention kernels/kernel_table kernels/matmul kernels/mode"
        " kernels/panel_buffer kernels/pool_state kernels/reference"
    ),
}
BINDINGS: dict[str, str] = {
    "bindings/bindings": "",
    "bindings/module": "bindings/bindings",
    "bindings/bind_errors": "bindings/bindings bindings/values error",
    "bindings/bind_signals": "bindings/bindings error",
    "bindings/bind_params": "bindings/bindings cost_model params",
    "bindings/bind_results": "bindings/bindings metrics trace_log types watchdog",
    "bindings/values": "constraint error types",
    "bindings/py_engine": (
        "bindings/released_gil bindings/values calibration engine_thread error"
        " fault_script logits_record llama/chat_template llama/faulty_backend llama/fingerprint"
        " llama/llama_backend llama/llama_model llama/log_sink"
    ),
    "bindings/released_gil": "",
    "bindings/bind_engine": "bindings/bindings bindings/py_engine bindings/released_gil",
    "bindings/bind_chat": (
        "bindings/bindings bindings/released_gil bindings/values llama/chat_template"
    ),
    "bindings/bind_embedder": (
        "bindings/bindings bindings/py_engine bindings/released_gil error llama/embedder"
    ),
    "bindings/bind_testing": (
        "bindings/bindings bindings/released_gil error fault_script logits_record"
        " llama/llama_backend llama/llama_model"
    ),
    "bindings/bind_llama": (
        "bindings/bindings bindings/released_gil bindings/values error llama/abort_guard"
        " llama/devices llama/kernel_choice llama/llama_backend llama/llama_model llama/log_sink"
        " llama/quantize"
    ),
}
ALLOWED = CORE | LLAMA | BINDINGS

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


def unit_of(path: Path) -> str:
    return path.relative_to(CSRC).with_suffix("").as_posix()


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.MULTILINE)


def own_includes(path: Path) -> Iterator[str]:
    """Units of csrc/ that a file includes; the includer's folder comes before csrc/ itself."""
    for name in includes(path):
        found = next((p for p in (path.parent / name, CSRC / name) if p.is_file()), None)
        if found is not None and unit_of(found) != unit_of(path):
            yield unit_of(found)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CSRC)))
def test_file_includes_only_what_its_layer_allows(path: Path) -> None:
    unit = unit_of(path)
    assert unit in ALLOWED, f"csrc/{unit} is new: say in this table what it may include"
    assert set(own_includes(path)) <= set(ALLOWED[unit].split())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CSRC)))
def test_llama_cpp_and_pybind11_stay_in_their_folders(path: Path) -> None:
    folder = path.relative_to(CSRC).parts[0]
    for name in includes(path):
        if name.startswith(("pybind11/", "Python.h")):
            assert folder == "bindings", name
        own = (path.parent / name).is_file() or (CSRC / name).is_file()
        if not own and re.match(r"(llama|ggml|gguf)[\w-]*\.h$", Path(name).name):
            assert folder in {"llama", "kernels", "bindings"}, name
        if name.startswith(("llama/", "kernels/")):
            assert folder in {"llama", "kernels", "bindings"}, name


@pytest.mark.parametrize("unit", list(CORE))
def test_the_core_knows_no_other_folder(unit: str) -> None:
    assert all("/" not in allowed for allowed in CORE[unit].split())
    headers = [name for p in sources() if unit_of(p) == unit for name in includes(p)]
    quoted_elsewhere = [n for n in headers if n.endswith(".h") and not (CSRC / n).is_file()]
    # What is left are C headers of the system.
    assert set(quoted_elsewhere) <= {"fcntl.h", "sys/stat.h", "sys/types.h", "unistd.h"}


def test_the_table_of_includes_is_exact_and_has_no_cycle() -> None:
    used: dict[str, set[str]] = {}
    for path in sources():
        used.setdefault(unit_of(path), set()).update(own_includes(path))
    assert used == {unit: set(allowed.split()) for unit, allowed in ALLOWED.items()}
    order = list(TopologicalSorter(used).static_order())
    layers = (
        "types radix_tree prefix_cache radix_cache scheduler engine engine_thread"
        " bindings/bind_engine"
    )
    positions = [order.index(unit) for unit in layers.split()]
    assert positions == sorted(positions)


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
