"""What a GBNF grammar matches, found out the slow way."""

from __future__ import annotations

from llamaherd.structured_output.gbnf.nodes import Alt, Chars, Node, Ref, Repeat, Seq
from llamaherd.structured_output.gbnf.parser import parse


class Reference:
    """Matches short texts by a grammar without token references."""

    def __init__(self, grammar: str) -> None:
        self._rules = parse(grammar, lambda name: None)

    def accepts(self, text: str) -> bool:
        ends: dict[tuple[str, int], set[int]] = {
            (name, begin): set() for name in self._rules for begin in range(len(text) + 1)
        }
        grows = True
        while grows:
            grows = False
            for (name, begin), known in ends.items():
                found = _ends(self._rules[name], begin, text, ends)
                grows |= not found <= known
                known |= found
        return len(text) in ends["root", 0]


def _ends(node: Node, begin: int, text: str, rules: dict[tuple[str, int], set[int]]) -> set[int]:
    """Where a match that begins there may end, if rules match as far as is known."""
    if isinstance(node, Chars):
        fits = begin < len(text) and any(a <= ord(text[begin]) <= b for a, b in node.ranges)
        return {begin + 1} if fits else set()
    if isinstance(node, Ref):
        return set(rules[node.name, begin])
    if isinstance(node, Seq):
        here = {begin}
        for item in node.items:
            here = {end for at in here for end in _ends(item, at, text, rules)}
        return here
    if isinstance(node, Alt):
        return {end for option in node.options for end in _ends(option, begin, text, rules)}
    assert isinstance(node, Repeat)
    found, here = set(), {begin}
    most = node.least + len(text) + 1 if node.most is None else node.most
    for n in range(most + 1):
        if n >= node.least:
            found |= here
        here = {end for at in here for end in _ends(node.item, at, text, rules)}
    return found
