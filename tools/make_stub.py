"""Write python/llamaherd/_core.pyi from the built extension module.

    python tools/make_stub.py            # rewrite the committed stub
    python tools/make_stub.py --check    # exit 1 with a diff if it is stale

pybind11-stubgen is pinned in tests/requirements.txt, so that the stub changes only with the module.
It does not support native enums and generic types: they are corrected here.
"""

from __future__ import annotations

import argparse
import difflib
import enum
import re
import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path(__file__).resolve().parents[1] / "python" / "llamaherd" / "_core.pyi"


def generate() -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pybind11_stubgen", "llamaherd._core", "-o", folder],
            check=True,
            capture_output=True,
        )
        text = (Path(folder) / "llamaherd" / "_core.pyi").read_text(encoding="utf-8")
    return fix_versions(fix_enums(text)).replace("os.PathLike ", "os.PathLike[str] ")


def fix_enums(text: str) -> str:
    from llamaherd import _core

    for name, member in list(vars(_core).items()):
        if not (isinstance(member, type) and issubclass(member, enum.Enum)):
            continue
        for value in member:
            text = text.replace(
                f"    {value.name}: typing.ClassVar[{name}]", f"    {value.name} = {value.value}"
            )
    return re.sub(r"    @classmethod\n    def __new__\(cls, value\):\n        \.\.\.\n", "", text)


def fix_versions(text: str) -> str:
    """Remove values that differ between builds."""
    return re.sub(r"^(\w+): str = '.*'$", r"\1: str", text, flags=re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write or check the extension module's stub.")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = generate()
    if not args.check:
        STUB.write_text(text, encoding="utf-8")
        return 0
    committed = STUB.read_text(encoding="utf-8")
    diff = difflib.unified_diff(
        committed.splitlines(), text.splitlines(), "committed", "generated", lineterm=""
    )
    lines = list(diff)
    print("\n".join(lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
