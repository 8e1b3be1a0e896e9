"""The response header that names what is not enforced of the schemas of tools."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from llamaherd.engine.stream import Stream

NAME = "x-llamaherd-unenforced"
_MAX_CHARS = 1_024
_MORE = "..."


def unenforced_header(streams: Iterable[Stream]) -> dict[str, str]:
    """Header x-llamaherd-unenforced: tool.keyword pairs, separated by commas; empty: no header.

    Names are percent-encoded; beyond 1024 characters the list ends with "...".
    """
    pairs = dict.fromkeys(pair for stream in streams for pair in stream.unenforced)
    items: list[str] = []
    left = _MAX_CHARS - len(_MORE)
    for tool, keyword in pairs:
        item = f"{quote(tool, safe='')}.{quote(keyword, safe='$')}"
        left -= len(item) + 1
        if left < 0:
            items.append(_MORE)
            break
        items.append(item)
    return {NAME: ",".join(items)} if items else {}
