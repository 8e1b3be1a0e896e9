"""Write the table of docs/limits.md from llamaherd.server.common.limits.

python tools/make_limits_page.py            # rewrite it
python tools/make_limits_page.py --check    # exit 1 with a diff if it is stale
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

from llamaherd.server.common.limits import Limits

PAGE = Path(__file__).resolve().parents[1] / "docs" / "limits.md"
_TABLE = re.compile(r"^\| limit \|.*?\n(?!\|)", re.MULTILINE | re.DOTALL)


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new, n_tables = _TABLE.subn(lambda _: Limits.table(), old)
    if n_tables != 1:
        print(f"{PAGE} must have one table whose first column is 'limit'; got {n_tables}")
        return 1
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new, encoding="utf-8")
        return 0
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True)))
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
