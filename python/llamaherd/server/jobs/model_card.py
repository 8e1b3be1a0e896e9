"""Properties of a model for /v1/models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamaherd._core import GgufSummary, LlamaHerdError
from llamaherd.models import find_present, summarize
from llamaherd.offline.llm import LLM


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model.

    Attributes:
      files: From the headers of its files, the first part's first; empty: they are not on this
        machine, or damaged.
      max_len: Maximum tokens of a request; None: the model has not been loaded yet.
      output_modalities: Of text, embeddings and rerank, those that it makes; None: unknown.
    """

    files: Sequence[GgufSummary]
    max_len: int | None
    output_modalities: list[str] | None

    @classmethod
    def of(
        cls, files: Sequence[GgufSummary], pooling: str | None, llm: LLM | None, max_len: int | None
    ) -> ModelCard:
        """The properties of a model.

        Args:
          files: From the headers of its files.
          pooling: Pooling type that overrides the file's.
          llm: The model, if it is loaded.
          max_len: Maximum tokens of a request, if known.
        """
        if not files:
            return cls(files, max_len, None)
        generates = files[0].causal if llm is None else llm.generates
        return cls(files, max_len, _outputs(generates, pooling or files[0].pooling))

    @property
    def n_params(self) -> int:
        """Parameters of all parts."""
        return sum(file.n_params for file in self.files)

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensors of all parts."""
        return sum(file.n_bytes for file in self.files)


def read_headers(source: str, path: Path | None) -> list[GgufSummary]:
    """Headers of a model's files; empty if they are not on this machine, or damaged.

    Args:
      source: As in `resolve`; nothing is downloaded.
      path: Its file, if known.
    """
    try:
        path = path or find_present(source)
        return [] if path is None else summarize(path)
    except (LlamaHerdError, OSError):
        return []


def _outputs(generates: bool, pooling: str) -> list[str]:
    outputs = ["text"] if generates else []
    if pooling:
        outputs.append("rerank" if pooling == "rank" else "embeddings")
    return outputs
