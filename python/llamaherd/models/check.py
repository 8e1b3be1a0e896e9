"""Checks model files in a child process, isolated from crashes of llama.cpp."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from llamaherd import _core
from llamaherd._core import ModelLoadError
from llamaherd.models.cache import cache_dir
from llamaherd.models.local_file import split_names

_logger = logging.getLogger("llamaherd")
_SWITCH = "LLAMAHERD_CHECK_DOWNLOADS"
_LEAST_S = 60.0
_BYTES_PER_S = 50e6  # slow disk, and repacking of weights
_SPARE_BYTES = 4 << 30  # in addition to the weights, of which loading may hold two copies
REFUSED = 3  # exit status of llamaherd.trial_load for invalid files


def check_model(path: str | os.PathLike[str], *, timeout_s: float | None = None) -> None:
    """Load a model and generate with it, in a child process with time and memory limits.

    Args:
      path: A GGUF file; of a split one, the first part.
      timeout_s: Seconds until the child is killed. None: 60, and more for large files.

    Raises:
      ModelLoadError: The file is invalid, or the child crashed or was killed; the message states
        the reason and the remedy.

    Thread safety:
      Any thread. Takes the time and memory of loading the model and generating some tokens.
    """
    import subprocess

    path = Path(path)
    n_bytes = sum(part.stat().st_size for part in _parts(path) if part.is_file())
    if timeout_s is None:
        timeout_s = _LEAST_S + n_bytes / _BYTES_PER_S
    if not sys.executable:
        raise ModelLoadError(
            f"cannot check {path}: no Python interpreter found for a child process "
            "(sys.executable is empty)"
        )
    command = [
        sys.executable,
        "-m",
        "llamaherd.trial_load",
        str(path),
        str(3 * n_bytes + _SPARE_BYTES),
    ]
    # Not a pipe: it would stay open as long as processes started by the child.
    with tempfile.TemporaryFile() as out:
        try:
            status = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        out.seek(0)
        lines = out.read().decode(errors="replace").splitlines()
    if status == 0:
        return
    if status == REFUSED and lines:
        raise ModelLoadError(lines[-1])
    doing = lines[-1] if lines else "starting"
    if status is None:
        what = f"timeout after {timeout_s:.0f} s while {doing}"
    elif status < 0:
        what = f"llama.cpp crashed with {_signal_name(-status)} while {doing}"
    else:
        what = f"the child process ended with status {status} while {doing}"
    raise ModelLoadError(
        f"{path} must not be loaded: the check in a child process failed: {what}. The file is"
        " damaged, malicious, or not supported by this llama.cpp: delete it, and download it again"
        " or use another model"
    )


def require_checked(path: Path) -> None:
    """Check a downloaded file once. LLAMAHERD_CHECK_DOWNLOADS=0 disables the check.

    Raises:
      ModelLoadError: As check_model().
    """
    if os.environ.get(_SWITCH) == "0":
        return
    record, state = _record_path(path), _state(path)
    with suppress(OSError, ValueError):
        if json.loads(record.read_text(encoding="utf-8")) == state:
            return
    _logger.info("checking %s before its first use", path)
    check_model(path)
    with suppress(OSError):  # with a read-only cache the check is repeated
        record.parent.mkdir(parents=True, exist_ok=True)
        new = record.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(state), encoding="utf-8")
        os.replace(new, record)


def _record_path(path: Path) -> Path:
    """Path of the record of a successful check, outside the hub's cache."""
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return cache_dir() / "checked" / f"{name}.json"


def _state(path: Path) -> dict[str, object]:
    """Content of the record: a changed file or another llama.cpp requires a new check."""
    stats = [part.stat() for part in _parts(path)]
    return {
        "llama_cpp": _core.llama_cpp_commit,
        "parts": [[stat.st_size, stat.st_mtime_ns] for stat in stats],
    }


def _parts(path: Path) -> list[Path]:
    return [path.with_name(name) for name in split_names(path.name)]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
