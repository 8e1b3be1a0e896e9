"""Embedding and reranking."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.config.params import EngineConfig
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.engine.model_loading import load_in_thread
from llamaherd.models import resolve
from llamaherd.validation import require_unicode

Vectors: TypeAlias = "npt.NDArray[np.float32]"

_logger = logging.getLogger("llamaherd")
_N_NAMED = 10


@dataclass(frozen=True)
class RerankResult:
    """One document ranked by `Embedder.rerank()`.

    Attributes:
      index: Index of the document in the argument.
      score: Relevance to the query: the score of a reranking model, of any range, or the cosine of
        the two embeddings, in [-1, 1].
    """

    index: int
    score: float


class Embedder:
    """An embedding or reranking model. Texts of a call are batched.

    Args:
      model: As for `LLM`, or a `BatchEngine`, whose weights are shared and stay in memory as long
        as the embedder exists.
      config: Engine options. Only those of threads, devices and loading apply, and n_ubatch: the
        tokens per call and per text (None: the limit of the model or max_len, at least 512, at most
        2048). None: the engine's, or the defaults.
      pooling: How token embeddings become one vector: mean, cls, last, or rank for a score from the
        model's ranking head. None: the model's.
      progress: Show a progress bar while loading. None: if stderr is a terminal.

    Raises:
      ModelLoadError: The model was not found or cannot be loaded; the message states the reason.
      InvalidRequestError: An option does not fit the model, or the pooling is unknown.

    Thread safety:
      All methods may be called from any thread; concurrent calls run one after the other.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | BatchEngine,
        config: EngineConfig | None = None,
        *,
        pooling: str | None = None,
        progress: bool | None = None,
    ) -> None:
        if isinstance(model, BatchEngine):
            core_config = (config or model.config)._to_core()
            self._core = _core.Embedder.of_engine(model._core, core_config, pooling or "")
            return
        core_config = (config or EngineConfig())._to_core()
        path = resolve(model, progress=progress)
        self._core = load_in_thread(
            path,
            core_config,
            lambda watch: _core.Embedder(path, core_config, watch, pooling or ""),
            progress=progress,
        )

    @property
    def pooling(self) -> str:
        """Pooling type: mean, cls, last or rank."""
        return self._core.pooling

    @property
    def n_embd(self) -> int:
        """Dimensions of an embedding."""
        return self._core.n_out

    @property
    def max_len(self) -> int:
        """Maximum tokens of a text, including those that the model adds."""
        return self._core.max_len

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, including those that the model adds; at most max_len."""
        return self._core.count_tokens(text)

    def embed(
        self, texts: str | Sequence[str], *, normalize: bool = False, truncate: bool = False
    ) -> Vectors:
        """Embed texts.

        Args:
          texts: One text or several.
          normalize: Scale each vector to length 1 (L2); zero vectors are unchanged.
          truncate: Truncate texts to max_len tokens, with a warning of the logger "llamaherd".
            False: reject longer texts.

        Returns:
          Shape (n_texts, n_embd), float32, in the order of the texts.

        Raises:
          ContextLengthError: A text is too long.
          InvalidRequestError: A text has no tokens, or the model is a reranker.
        """
        if self.pooling == "rank":
            raise InvalidRequestError("a model with pooling rank has no embeddings: use rerank()")
        vectors, cut = self._core.embed(_as_texts("texts", texts), truncate)
        _warn_of_cuts(cut, self.max_len)
        return _normalized(vectors) if normalize else vectors

    def rerank(
        self, query: str, documents: Sequence[str], *, truncate: bool = False
    ) -> list[RerankResult]:
        """Rank documents by relevance to a query, most relevant first.

        A reranking model scores the query with each document. For other models the score is the
        cosine of the embeddings.

        Args:
          query: A text.
          documents: Texts.
          truncate: As in `embed`.

        Raises:
          ContextLengthError: A text is too long.
          InvalidRequestError: A text has no tokens.
        """
        documents = _as_texts("documents", documents)
        (query,) = _as_texts("query", query)
        if self.pooling != "rank":
            query_vector = self.embed([query], normalize=True, truncate=truncate)[0]
            scores = self.embed(documents, normalize=True, truncate=truncate) @ query_vector
        elif self.n_embd != 1:
            raise InvalidRequestError(
                f"rerank needs a model with 1 output score; this one has {self.n_embd}"
            )
        else:
            ranks, cut = self._core.rank(query, documents, truncate)
            _warn_of_cuts(cut, self.max_len)
            scores = ranks[:, 0]
        order = np.argsort(-scores, kind="stable")
        return [RerankResult(int(i), float(scores[i])) for i in order]


def _as_texts(name: str, texts: str | Sequence[str]) -> list[str]:
    batch = [texts] if isinstance(texts, str) else list(texts)
    for text in batch:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be str; got {type(text).__name__}")
        require_unicode(name, text)
    return batch


def _warn_of_cuts(cut: Sequence[int], max_len: int) -> None:
    if not cut:
        return
    named = ", ".join(str(i) for i in cut[:_N_NAMED]) + (", ..." if len(cut) > _N_NAMED else "")
    _logger.warning("%d texts were truncated to %d tokens: %s", len(cut), max_len, named)


def _normalized(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)
