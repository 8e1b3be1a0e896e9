"""Prompts to fill in the middle (FIM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llamaherd._core import InvalidRequestError
from llamaherd.request.prompt import TokenIds

# llama-server's names for what a request does not name.
_REPOSITORY = "myproject\n"
_FILE = "filename\n"
_NO_FILE_TOKEN = "\n\n--- snippet ---\n\n"
# Longer texts are cut before they are tokenized.
_CHARS_PER_TOKEN = 32


class InfillUnsupportedError(InvalidRequestError):
    """The model has no tokens to fill in the middle."""


@dataclass(frozen=True)
class ExtraFile:
    """A part of another file, as context of an `InfillPrompt`.

    Attributes:
      filename: Name of the file.
      text: The part.
    """

    filename: str
    text: str


@dataclass(frozen=True, kw_only=True)
class InfillPrompt:
    """A prompt to generate the text between a prefix and a suffix, for models with tokens for it.

    Texts are tokenized as plain text: names of special tokens in them are not parsed.

    Args:
      prefix: Text before the gap, or its token ids.
      suffix: Text behind the gap, or its token ids.
      line: Continuation of the prefix, tokenized on its own, so that the tokens of the prefix do
        not change while a line is typed.
      extra: Parts of other files, placed first, so that prompts share them as cached prefix. With
        extra (an empty sequence, too) the prompt has the form of a repository, if the model has
        tokens for it. None: neither.
      suffix_first: Place the suffix before the prefix (SPM). False: prefix, suffix (PSM).
      truncate: If the prompt and max_tokens exceed the engine's max_len, keep the end of the
        prefix, the beginning of the suffix (at most a quarter, unless the prefix is shorter) and
        the last of the extra files that fit. False: such a prompt is rejected.
    """

    prefix: str | TokenIds
    suffix: str | TokenIds = ""
    line: str = ""
    extra: Sequence[ExtraFile] | None = None
    suffix_first: bool = False
    truncate: bool = False


@dataclass(frozen=True)
class FimTokens:
    """Token ids of a model for prompts to fill in the middle; None: it has none."""

    prefix: int | None = None
    suffix: int | None = None
    middle: int | None = None
    repository: int | None = None
    file_separator: int | None = None
    bos: int | None = None

    def encode(
        self, prompt: InfillPrompt, tokenize: Callable[[str], list[int]], n_most: int
    ) -> list[int]:
        """Token ids of a prompt, in llama-server's format, with the begin token (BOS) first.

        Args:
          prompt: The prompt.
          tokenize: Tokenizes plain text without adding tokens.
          n_most: Tokens to keep if the prompt is to be truncated.

        Raises:
          InfillUnsupportedError: The model has no prefix, suffix or middle token.
        """
        pre, suf, mid = self._require_all()
        n_chars = _CHARS_PER_TOKEN * n_most if prompt.truncate else None

        def ids(text: str | TokenIds, part: slice) -> list[int]:
            if isinstance(text, str):
                return tokenize(text[part])
            return [int(token) for token in text[part]]

        head = [] if self.bos is None else [self.bos]
        behind = []
        if prompt.extra is not None:
            if self.repository is not None:
                head += [self.repository, *tokenize(_REPOSITORY)]
            if self.file_separator is not None:
                behind = [self.file_separator, *tokenize(_FILE)]
        prefix = ids(prompt.prefix, slice(None if n_chars is None else -n_chars, None))
        suffix = ids(prompt.suffix, slice(n_chars))
        line = tokenize(prompt.line)
        n_left = None
        if prompt.truncate:
            n_left = max(0, n_most - len(head) - len(behind) - len(line) - len((pre, suf, mid)))
            n_suffix = min(len(suffix), max(n_left // 4, n_left - len(prefix)))
            prefix = prefix[max(0, len(prefix) - (n_left - n_suffix)) :]
            suffix = suffix[:n_suffix]
            n_left -= len(prefix) + n_suffix
        files = self._files(prompt.extra or (), tokenize, n_left)
        before, after = [pre, *prefix, *line], [suf, *suffix]
        gap = [*after, *before] if prompt.suffix_first else [*before, *after]
        return [*head, *files, *behind, *gap, mid]

    def _files(
        self,
        extra: Sequence[ExtraFile],
        tokenize: Callable[[str], list[int]],
        n_most: int | None,
    ) -> list[int]:
        """Tokens of the last files that have at most `n_most` tokens together; None: of all."""
        kept: list[list[int]] = []
        for file in reversed(extra):
            text = file.text if n_most is None else file.text[: _CHARS_PER_TOKEN * (n_most + 1)]
            if self.file_separator is not None:
                tokens = [self.file_separator, *tokenize(file.filename + "\n"), *tokenize(text)]
            else:
                tokens = [*tokenize(_NO_FILE_TOKEN), *tokenize(text)]
            if n_most is not None:
                if len(tokens) > n_most:
                    break
                n_most -= len(tokens)
            kept.append(tokens)
        return [token for tokens in reversed(kept) for token in tokens]

    def _require_all(self) -> tuple[int, int, int]:
        named = {"prefix": self.prefix, "suffix": self.suffix, "middle": self.middle}
        missing = [name for name, token in named.items() if token is None]
        if self.prefix is None or self.suffix is None or self.middle is None:
            raise InfillUnsupportedError(
                "the model cannot fill in the middle: its vocabulary has no token for "
                f"{', '.join(missing)}"
            )
        return self.prefix, self.suffix, self.middle
