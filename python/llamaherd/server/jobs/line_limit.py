"""Limits of generated code by lines: indentation, and time at the end of a line."""

from __future__ import annotations

_BLANKS = " \t"


class LineLimit:
    """Ends a text before a line that is indented too little, or after a line that ends too late.

    Args:
      n_indent: Least number of spaces and tabs at the beginning of each line but the first.
      max_ms: Milliseconds of generation, after which the text ends at the next line feed; 0: no
        limit.
    """

    def __init__(self, n_indent: int, max_ms: float) -> None:
        self._n_indent = n_indent
        self._max_ms = max_ms
        self._indent: str | None = None  # of the current line so far; None: the line has begun
        self.reached = False

    def add(self, piece: str, elapsed_ms: float) -> str:
        """The part of the text that is known to be within the limits after a piece is added.

        Args:
          piece: The next piece of the text.
          elapsed_ms: Milliseconds of generation so far.
        """
        kept: list[str] = []
        for char in "" if self.reached else piece:
            if self._indent is not None and char in _BLANKS:
                self._indent += char
                continue
            if self._indent is not None:
                if len(self._indent) < self._n_indent:
                    self.reached = True
                    break
                kept.append(self._indent)
                self._indent = None
            kept.append(char)
            if char == "\n":
                self._indent = ""
                if 0 < self._max_ms < elapsed_ms:
                    self.reached = True
                    break
        return "".join(kept)

    def end(self) -> str:
        """The rest of a text that ends without reaching a limit."""
        rest, self._indent = self._indent or "", None
        return "" if self.reached else rest
