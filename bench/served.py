"""A llamaherd server in a separate process."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from llamaherd.benchmark.contestants import servers


class Server(servers.Server):
    """`llamaherd serve` on a free port."""

    def __init__(self, model: str, options: list[str], threads: int | None = None) -> None:
        port = servers.free_port()
        command = [sys.executable, "-m", "llamaherd.cli", "serve", model, "--port", str(port)]
        if threads is not None:
            command += ["--threads", str(threads)]
        super().__init__([*command, *options], port, "llamaherd")

    def memory_mib(self) -> float:
        """Resident memory in MiB; NaN: the process has exited."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else float("nan")


def tool_template() -> str:
    """A chat template with tools and reasoning, which the default model's template lacks."""
    path = Path(__file__).resolve().parents[1] / "tests" / "python" / "chat_templates.py"
    spec = importlib.util.spec_from_file_location("chat_templates", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.TOOLS_AND_THOUGHTS)
