"""Regression gates on counters of the engine's core.

    python bench/gates.py [counters] [allocations] [instructions]    # all, against gates.json
    python bench/gates.py --write                                    # count and rewrite gates.json

counters: totals of a fixed schedule on the fake backend, exactly equal. allocations: calls of
operator new in steps that only decode, 0. instructions: of the scheduler, the batch builder, the
detokenizer, the radix tree, the prefix cache and a whole step, counted by valgrind's callgrind,
within 5 %; they depend on the compiler and are skipped with another one than in gates.json. Exit
status 1 if a gate fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "gates"
BASELINE = Path(__file__).with_name("gates.json")
TOLERANCE = 0.05

# Use the generic string functions of the C library on any processor, and bind symbols before
# # counting.
ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-ERMS,-FSRM", "LD_BIND_NOW": "1"}


class CannotRun(Exception):
    """A required program is not installed."""


class OtherToolchain(Exception):
    """gates.json has instruction counts of another compiler or library."""


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Flags of the environment would change the counts.
    kept = {k: v for k, v in os.environ.items() if k not in ("CFLAGS", "CXXFLAGS", "LDFLAGS")}
    return subprocess.run(
        command, cwd=ROOT, env=kept | variables, capture_output=True, text=True, timeout=1200
    )


def output_of(*command: str, **variables: str) -> str:
    result = run(*command, **variables)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def build() -> None:
    """Build all benchmarks that need no model, so that they keep compiling."""
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            raise CannotRun(f"{tool} is not installed: pip install -r tests/requirements.txt")
    configure = (
        *("cmake", "-S", ".", "-B", str(FOLDER), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
        *("-DLLAMAHERD_BUILD_BENCH=ON", "-DLLAMAHERD_BUILD_TESTS=OFF"),
        *("-DLLAMAHERD_BUILD_PYTHON=OFF", "-DLLAMAHERD_BUILD_LLAMA=OFF"),
    )
    try:
        output_of(*configure)
    except RuntimeError as error:
        if '"benchmark"' not in str(error):
            raise
        raise CannotRun("Google Benchmark is not installed (Debian: libbenchmark-dev)") from error
    output_of("cmake", "--build", str(FOLDER))


def program(name: str) -> str:
    return str(FOLDER / "bench" / "cpp" / name)


def count_by_schedule() -> dict[str, int]:
    lines = output_of(program("counters")).splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


def count_allocations() -> dict[str, tuple[int, int]]:
    """By mode of decoding: number of steps, and allocations in all of them."""
    lines = [line.split() for line in output_of(program("allocations")).splitlines()]
    return {name: (int(n_steps), int(n)) for name, n_steps, n in lines}


def toolchain() -> dict[str, str]:
    lines = output_of(program("instructions"), "toolchain").splitlines()
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def count_instructions() -> dict[str, int]:
    if shutil.which("valgrind") is None:
        raise CannotRun("valgrind is not installed")
    return {work: instructions_of(work) for work in output_of(program("instructions")).split()}


def instructions_of(work: str) -> int:
    result = run(
        *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
        *("--toggle-collect=measured", program("instructions"), work),
        **ENVIRONMENT,
    )
    collected = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode != 0 or collected is None:
        raise RuntimeError(f"callgrind of {work}\n{result.stdout}{result.stderr}")
    return int(collected[1])


class Counted(NamedTuple):
    """Content of gates.json."""

    counters: dict[str, int]
    toolchain: dict[str, str]
    instructions: dict[str, int]


def baseline() -> Counted:
    return Counted(**json.loads(BASELINE.read_text()))


def differences(
    name: str, expected: dict[str, int], found: dict[str, int], tolerance: float = 0
) -> list[str]:
    wrong = [f"{name}: {what} is not counted" for what in expected.keys() - found.keys()]
    wrong += [
        f"{name}: {what} is not in {BASELINE.name}" for what in found.keys() - expected.keys()
    ]
    for what in expected.keys() & found.keys():
        if abs(found[what] - expected[what]) > tolerance * expected[what]:
            wrong.append(f"{name}: {what} is {found[what]:,}, was {expected[what]:,}")
    return sorted(wrong)


def check_counters() -> list[str]:
    return differences("counters", baseline().counters, count_by_schedule())


def check_allocations() -> list[str]:
    return [
        f"allocations: {n} in {n_steps} steps, {name}"
        for name, (n_steps, n) in count_allocations().items()
        if n != 0
    ]


def check_instructions() -> list[str]:
    expected, found = baseline(), toolchain()
    if found != expected.toolchain:
        raise OtherToolchain(
            f"instructions were counted with {expected.toolchain}; this toolchain is {found}"
        )
    return differences("instructions", expected.instructions, count_instructions(), TOLERANCE)


CHECKS: dict[str, Callable[[], list[str]]] = {
    "counters": check_counters,
    "allocations": check_allocations,
    "instructions": check_instructions,
}


def check(gate: str) -> list[str]:
    try:
        return CHECKS[gate]()
    except OtherToolchain as error:
        print(f"skipped: {error}")
        return []


def write() -> None:
    counted = Counted(count_by_schedule(), toolchain(), count_instructions())
    BASELINE.write_text(json.dumps(counted._asdict(), indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "gates", nargs="*", metavar="GATE", help=f"{', '.join(CHECKS)}; default: all"
    )
    parser.add_argument("--write", action="store_true", help=f"rewrite {BASELINE.name}")
    arguments = parser.parse_args()
    unknown = set(arguments.gates) - set(CHECKS)
    if unknown:
        parser.error(f"unknown gate: {', '.join(unknown)}")
    try:
        build()
        if arguments.write:
            write()
            return 0
        wrong = [line for gate in arguments.gates or CHECKS for line in check(gate)]
    except CannotRun as error:
        sys.exit(str(error))
    print(*wrong or ["no differences"], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
