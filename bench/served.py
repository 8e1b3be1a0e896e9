"""A server as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


class Server:
    """`llamaherd serve` on a free port."""

    def __init__(self, model: str, options: list[str], threads: int | None = None) -> None:
        command = [sys.executable, "-m", "llamaherd.cli", "serve", model, "--port", "0", *options]
        if threads is not None:
            command += ["--threads", str(threads)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(r"running on (http://[\w.:]+)", line)
            if found:
                self.url = found[1]
                break
        else:
            sys.exit("the server did not start")
        # Or it would wait for somebody to read its log.
        subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def memory_mib(self) -> float:
        """Resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def cpu_s(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
