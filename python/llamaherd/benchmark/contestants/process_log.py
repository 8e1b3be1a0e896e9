"""What a process writes, kept to say why it ended."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any


class LoggedProcess(subprocess.Popen[str]):
    """A process whose stderr, and stdout if it is not piped, goes to a file that is gone with it.

    Args:
      options: Popen's.
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
        return lines[-1] if lines else "it said nothing"

    def end(self) -> None:
        """Waits for it half a minute after `terminate()` or the end of its stdin, then kills it."""
        try:
            self.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()
        self._log.close()
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()
