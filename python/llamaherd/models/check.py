"""Tries a model in a child process: what a file does to llama.cpp, it does there."""

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
_BYTES_PER_S = 50e6  # a slow disk, and the weights rearranged
_SPARE_BYTES = 4 << 30  # beside the weights, which a load may hold in memory twice
REFUSED = 3  # status of llamaherd.trial_load


def check_model(path: str | os.PathLike[str], *, timeout_s: float | None = None) -> None:
    """Loads a model and lets it answer, in a child process with limits of time and memory.

    Args:
      path: A GGUF file; of a split one, the first part.
      timeout_s: Seconds after which the child is killed. None: 60, and more for large files.

    Raises:
      ModelLoadError: The file cannot be used, or the child did not survive it; the message says
        which and what to do.

    Thread safety:
      Any thread. Takes as long as a load of the model and some tokens, and its memory.
    """
    import subprocess

    path = Path(path)
    n_bytes = sum(part.stat().st_size for part in _parts(path) if part.is_file())
    if timeout_s is None:
        timeout_s = _LEAST_S + n_bytes / _BYTES_PER_S
    if not sys.executable:
        raise ModelLoadError(f"no Python interpreter to check {path} with in a process of its own")
    command = [
        sys.executable,
        "-m",
        "llamaherd.trial_load",
        str(path),
        str(3 * n_bytes + _SPARE_BYTES),
    ]
    # A file, as a pipe that the child's own children hold open would outlast it.
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
        what = f"it was not done after {timeout_s:.0f} s while {doing}"
    elif status < 0:
        what = f"llama.cpp ended with {_signal_name(-status)} while {doing}"
    else:
        what = f"the child process ended with status {status} while {doing}"
    raise ModelLoadError(
        f"{path} must not be loaded: a check in a process of its own failed: {what}. The file is"
        " damaged, made to do harm, or of a kind that this llama.cpp cannot run: delete it, and"
        " download it again or take another"
    )


def require_checked(path: Path) -> None:
    """Checks a file that was downloaded, once; LLAMAHERD_CHECK_DOWNLOADS=0 turns that off.

    Raises:
      ModelLoadError: As check_model().
    """
    if os.environ.get(_SWITCH) == "0":
        return
    note, state = _note(path), _state(path)
    with suppress(OSError, ValueError):
        if json.loads(note.read_text(encoding="utf-8")) == state:
            return
    _logger.info("checking %s before its first use", path)
    check_model(path)
    with suppress(OSError):  # a cache that is read only: it is checked again
        note.parent.mkdir(parents=True, exist_ok=True)
        new = note.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(state), encoding="utf-8")
        os.replace(new, note)


def _note(path: Path) -> Path:
    """Where it is remembered that a file was found good: the hub's folders are not ours."""
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return cache_dir() / "checked" / f"{name}.json"


def _state(path: Path) -> dict[str, object]:
    """What a file found good is known by; another llama.cpp may take it otherwise."""
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
