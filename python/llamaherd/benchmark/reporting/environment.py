"""Environment of a benchmark."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llamaherd import _core


def environment() -> dict[str, Any]:
    """Machine, software and date; values are strings and numbers."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": _proc_value("/proc/cpuinfo", "model name") or platform.processor(),
        "n_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(_memory_kib() / 2**20, 1),
        "cpu_features": [name for name, value in _core.cpu_features() if value == "1"],
        "devices": [device.description for device in _core.list_devices()],
        "cpu_kernels": _core.cpu_kernels(_core.EngineConfig()),
        "os": platform.platform(),
        "python": platform.python_version(),
        "llama_cpp": f"{_core.llama_cpp_version} ({_core.llama_cpp_commit[:9]})",
    }


def _memory_kib() -> int:
    value = _proc_value("/proc/meminfo", "MemTotal")
    return int(value.split()[0]) if value else 0


def _proc_value(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    values = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in values if name.strip() == key), "")
