"""Child processes whose output is kept for error messages."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any


class LoggedProcess(subprocess.Popen[str]):
    """A process whose stderr, and stdout if not piped, goes to a temporary file.

    Args:
      options: Options of Popen.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        options = {"stdin": subprocess.DEVNULL, "stdout": self._log, **options}
        try:
            super().__init__(command, stderr=self._log, text=True, **options)
        except BaseException:
            self._log.close()
            raise

    def last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def end(self) -> None:
        """Wait 30 s for the process to exit, then kill it. Call after `terminate()` or closing its
        stdin."""
        try:
            self.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()
        self._log.close()
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()
