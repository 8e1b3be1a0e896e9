"""Token ids of texts, with the begin token (BOS) once."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from llamaherd import _core
from llamaherd.request.infill import FimTokens, InfillPrompt
from llamaherd.validation import require_unicode

_logger = logging.getLogger("llamaherd")


class PromptTokenizer:
    """The model's tokenizer for prompts of an engine.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(self, core: _core.BatchEngine) -> None:
        self._core = core
        self._has_warned = False

    def encode(
        self,
        text: str,
        *,
        add_special: bool = True,
        parse_special: bool = True,
        must_fit: bool = False,
    ) -> list[int]:
        """Tokenize a text. The begin token is not added to a text that begins with it.

        Args:
          text: Any text.
          add_special: Add begin and end tokens as configured in the model.
          parse_special: Parse names of special tokens as these tokens.
          must_fit: Raise ContextLengthError for a text of more than max_len tokens.

        Raises:
          InvalidRequestError: As `BatchEngine.tokenize`.
        """
        require_unicode("prompt", text)
        tokens = self._core.tokenize(text, add_special, parse_special, prompt=must_fit)
        if not (add_special and parse_special and self._info["adds_bos"]):
            return tokens
        bos = self._info["bos_token"]
        if bos is None or tokens[:2] != [bos, bos]:
            return tokens
        self._warn(bos)
        return tokens[1:]

    def encode_infill(self, prompt: InfillPrompt, n_most: int) -> list[int]:
        """Token ids of a prompt to fill in the middle, at most `n_most` if it may be truncated.

        Raises:
          InfillUnsupportedError: The model has no tokens for it.
          InvalidRequestError: As `BatchEngine.tokenize`.
        """

        def encode(text: str) -> list[int]:
            return self.encode(
                text, add_special=False, parse_special=False, must_fit=not prompt.truncate
            )

        return self._fim_tokens.encode(prompt, encode, n_most)

    @cached_property
    def _info(self) -> dict[str, Any]:
        return self._core.model_info()

    @cached_property
    def _fim_tokens(self) -> FimTokens:
        bos = self._info["bos_token"] if self._info["adds_bos"] else None
        return FimTokens(**self._info["fim_tokens"], bos=bos)

    def _warn(self, bos: int) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        name = self._core.token_name(bos).decode(errors="replace")
        _logger.warning(
            "a prompt begins with the begin token (BOS) %s, which the tokenizer of this model "
            "adds: it is used once; omit it from prompts (further ones are not reported)",
            name,
            extra={"model": self._info["metadata"].get("general.name", "")},
        )
