"""Raises ImportError if the CPU lacks instructions that the extension module was compiled for.

Loading the module would end the process with SIGILL. Linux on x86-64 only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType

try:
    from llamaherd._core_features import REQUIRED
except ModuleNotFoundError:  # the extension module was built without installing it
    REQUIRED = ()

_CPUINFO = "/proc/cpuinfo"
# Kernels before these do not list the feature, whether or not the CPU has it.
_SINCE = {
    "avx512_bf16": (5, 3),
    "avx512_fp16": (5, 12),
    "avx_vnni": (5, 12),
    "avx_ifma": (6, 2),
}


def missing(required: Sequence[str], flags: Sequence[str], kernel: tuple[int, int]) -> list[str]:
    """Required features that are not among the CPU's flags, as listed by a version of Linux."""
    listed = [name for name in required if kernel >= _SINCE.get(name, (0, 0))]
    return [name for name in listed if name not in flags]


def _flags() -> list[str]:
    try:
        with open(_CPUINFO, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "flags":
                    return value.split()
    except OSError:
        pass
    return []


def _kernel() -> tuple[int, int]:
    numbers = os.uname().release.split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (IndexError, ValueError):
        return 0, 0


def _require(required: Sequence[str]) -> None:
    flags = _flags() if required else []
    lacking = missing(required, flags, _kernel()) if flags else []
    if not lacking:
        return
    error = ImportError(
        "this build of llamaherd needs CPU instructions that this machine lacks "
        f"({', '.join(lacking)}): install it from source on this machine, or build it with -C "
        "cmake.define.GGML_NATIVE=OFF"
    )
    _print_as_sentence(error)
    raise error


def _print_as_sentence(error: ImportError) -> None:
    """Print the error without a traceback if nothing catches it: the command line's script imports
    this package before it calls anything that could."""
    hook = sys.excepthook

    def print_sentence(
        kind: type[BaseException], raised: BaseException, trace: TracebackType | None
    ) -> None:
        if raised is error:
            print(f"llamaherd: {error}", file=sys.stderr)
        else:
            hook(kind, raised, trace)

    sys.excepthook = print_sentence


_require(REQUIRED)
