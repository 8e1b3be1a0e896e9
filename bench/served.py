"""A server of ours as a process of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from llamaherd.bench import servers


class Server(servers.Server):
    """`llamaherd serve` on a free port."""

    def __init__(self, model: str, options: list[str], threads: int | None = None) -> None:
        port = servers.free_port()
        command = [sys.executable, "-m", "llamaherd.cli", "serve", model, "--port", str(port)]
        if threads is not None:
            command += ["--threads", str(threads)]
        super().__init__([*command, *options], port, "llamaherd")

    def memory_mib(self) -> float:
        """Resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024
