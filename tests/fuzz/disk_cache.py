"""Files of the disk cache of any content: DiskFuzz of the C++ tests for --seconds."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from test_cpp import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    tests = build("cpp", "herd_tests", llama="OFF")
    environment = {**os.environ, "LLAMAHERD_FUZZ_SECONDS": str(round(args.seconds))}
    command = [str(tests), "--gtest_filter=DiskFuzz.*"]
    sys.exit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
