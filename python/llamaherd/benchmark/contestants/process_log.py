"""Child processes whose output is kept for error messages."""

from __future__ import annotations

import atexit
import contextlib
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any

_running: set[LoggedProcess] = set()


@atexit.register
def _end_all() -> None:
    for process in list(_running):
        process.terminate()
        process.end()


@contextlib.contextmanager
def _sigterm_deferred() -> Iterator[None]:
    """A handler that raises between the fork and the end of Popen() would lose the child."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        if received:
            signal.raise_signal(signal.SIGTERM)


class LoggedProcess(subprocess.Popen[str]):
    """A process whose stderr, and stdout if it is not piped, goes to a temporary file. One that
    still runs when the interpreter exits is terminated.

    Args:
      options: Options of Popen.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        options = {"stdin": subprocess.DEVNULL, "stdout": self._log, **options}
        with _sigterm_deferred():
            try:
                super().__init__(command, stderr=self._log, text=True, **options)
            except BaseException:
                self._log.close()
                raise
            _running.add(self)

    def last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def end(self) -> None:
        """Wait 30 s for the process to exit, then kill it. Call after `terminate()` or closing its
        stdin."""
        try:
            self.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()
        _running.discard(self)
        self._log.close()
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()
