"""Model loading with progress, interruptible by Ctrl-C."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from llamaherd import _core
from llamaherd.engine import native_log

_Loaded = TypeVar("_Loaded")
_POLL_S = 0.05
_RPC_PREFIX = "rpc://"
_RPC_TIMEOUT_S = 5.0


def load_core(
    path: Path,
    config: _core.EngineConfig,
    *,
    progress: bool | None,
    threaded: bool,
    calibration: _core.Calibration | None = None,
) -> _core.BatchEngine:
    """Load `path` and start its engine; raises as `load_in_thread()`."""
    return load_in_thread(
        path,
        config,
        lambda watch: _core.BatchEngine(path, config, watch, threaded, calibration=calibration),
        progress=progress,
    )


def load_in_thread(
    path: Path,
    config: _core.EngineConfig,
    load: Callable[[_core.LoadProgress], _Loaded],
    *,
    progress: bool | None,
) -> _Loaded:
    """Call `load` for a model file in a thread, with a progress bar.

    The caller's thread receives Ctrl-C and cancels the load.

    Raises:
      ModelLoadError: The file cannot be loaded; the message states the reason.
      InvalidRequestError: An option does not fit the model or the machine.
    """
    for device in config.devices:
        if device.startswith(_RPC_PREFIX):
            _require_rpc_server(device.removeprefix(_RPC_PREFIX))
    watch = _core.LoadProgress()
    outcome: list[_Loaded | BaseException] = []
    done = threading.Event()  # after Ctrl-C in Thread.join() Python considers the thread finished

    def run() -> None:
        try:
            outcome.append(load(watch))
        except BaseException as error:
            outcome.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="llamaherd-load", daemon=True)
    with _bar(path.name, progress) as update:
        try:
            thread.start()
            while not done.wait(_POLL_S):
                update(watch.fraction)
        except BaseException:
            watch.cancel()
            if thread.ident is not None:
                done.wait()
            raise
        finally:
            native_log.forward()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def shows_progress(progress: bool | None) -> bool:
    """Whether to show a progress bar; None: if stderr is a terminal."""
    return sys.stderr.isatty() if progress is None else progress


def _require_rpc_server(endpoint: str) -> None:
    """Raise if HOST:PORT refuses connections, where ggml would abort the process."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise _core.InvalidRequestError(
            f"an RPC device must be rpc://HOST:PORT; got {_RPC_PREFIX}{endpoint}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_RPC_TIMEOUT_S).close()
    except OSError as error:
        raise _core.InvalidRequestError(
            f"cannot connect to the RPC server at {endpoint}: {error}"
        ) from None


def _bar(name: str, progress: bool | None) -> AbstractContextManager[Callable[[float], Any]]:
    if not shows_progress(progress):
        return nullcontext(lambda fraction: None)
    return _RichBar(name)


class _RichBar(AbstractContextManager[Callable[[float], Any]]):
    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(f"loading {name}", total=1.0)

    def __enter__(self) -> Callable[[float], Any]:
        self._progress.start()
        return lambda fraction: self._progress.update(self._task, completed=fraction)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
