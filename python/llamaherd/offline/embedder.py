"""Embedding and reranking."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from llamaherd import _core
from llamaherd._core import InvalidRequestError
from llamaherd.config.params import EngineConfig
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.engine.model_loading import load_in_thread
from llamaherd.models import resolve
from llamaherd.request.prompt import TokenIds
from llamaherd.validation import require_unicode

Vectors: TypeAlias = "npt.NDArray[np.float32]"
# A text, or its token ids.
Text: TypeAlias = "str | TokenIds"
POOLINGS = ("mean", "cls", "last", "rank")

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
      pooling: How the vectors of a text's tokens become one: mean, cls (the first token's), last
        (the last token's), or rank: a score from the model's ranking head. None: the pooling type
        in the model file; if there is none, `embed` and `rerank` need one.
      progress: Show a progress bar while loading. None: if stderr is a terminal.

    Raises:
      ModelLoadError: The model was not found or cannot be loaded; the message states the reason.
      InvalidRequestError: An option does not fit the model, the pooling is unknown, or it is rank
        and the model has no ranking head.

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
        """Pooling type: mean, cls, last or rank; empty: none was given, and the model file has
        none."""
        return self._core.pooling

    @property
    def n_embd(self) -> int:
        """Dimensions of an embedding."""
        return self._core.n_out

    @property
    def max_len(self) -> int:
        """Maximum tokens of a text, including those that the model adds."""
        return self._core.max_len

    def count_tokens(self, text: Text) -> int:
        """Tokens of a text, including those that the model adds; at most max_len."""
        return self._core.count_tokens(text)

    def embed(
        self,
        texts: Text | Sequence[Text],
        *,
        normalize: bool = False,
        truncate: bool = False,
        pooling: str | None = None,
    ) -> Vectors:
        """Embed texts.

        Args:
          texts: One text or several, each a str or token ids (a sequence of int or a 1-D integer
            array) of the model's own vocabulary, to which no special tokens are added.
          normalize: Scale each vector to length 1 (L2); zero vectors are unchanged.
          truncate: Truncate texts to max_len tokens, with a warning of the logger "llamaherd".
            False: reject longer texts.
          pooling: mean, cls or last, for this call. None: the embedder's.

        Returns:
          Shape (n_texts, n_embd), float32, in the order of the texts.

        Raises:
          ContextLengthError: A text is too long.
          InvalidRequestError: A text has no tokens, a token id is out of range, the pooling does
            not fit the model or is missing, or the model is a reranker.
          TypeError: A text is neither a str nor token ids.
        """
        if self.pooling == "rank":
            raise InvalidRequestError("a model with pooling rank has no embeddings: use rerank()")
        vectors, cut = self._core.embed(_as_texts("texts", texts), truncate, pooling or "")
        _warn_of_cuts(cut, self.max_len)
        return _normalized(vectors) if normalize else vectors

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        truncate: bool = False,
        pooling: str | None = None,
    ) -> list[RerankResult]:
        """Rank documents by relevance to a query, most relevant first.

        A reranking model scores the query with each document. For other models the score is the
        cosine of the embeddings.

        Args:
          query: A text.
          documents: Texts.
          truncate: As in `embed`.
          pooling: As in `embed`; not with a reranking model.

        Raises:
          ContextLengthError: A text is too long.
          InvalidRequestError: A text has no tokens, or the pooling does not fit the model or is
            missing.
        """
        documents = [documents] if isinstance(documents, str) else list(documents)
        _require_str("query", [query])
        _require_str("documents", documents)
        if self.pooling != "rank":

            def embed(texts: Sequence[str]) -> Vectors:
                return self.embed(texts, normalize=True, truncate=truncate, pooling=pooling)

            scores = embed(documents) @ embed([query])[0]
        elif pooling not in (None, "rank"):
            raise InvalidRequestError(f"a reranking model has pooling rank; got {pooling!r}")
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


def _as_texts(name: str, texts: Text | Sequence[Text]) -> list[Text]:
    batch = [cast("Text", texts)] if _is_one(texts) else list(cast("Sequence[Text]", texts))
    for text in batch:
        if isinstance(text, str):
            require_unicode(name, text)
        elif not _is_sequence(text):
            raise TypeError(f"{name} must be str or token ids; got {type(text).__name__}")
    return batch


def _is_one(texts: Text | Sequence[Text]) -> bool:
    if isinstance(texts, str) or getattr(texts, "ndim", None) == 1:
        return True
    return _is_sequence(texts) and len(texts) > 0 and isinstance(texts[0], Integral)


def _is_sequence(value: Any) -> bool:
    return hasattr(value, "ndim") or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    )


def _require_str(name: str, texts: Sequence[str]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be str; got {type(text).__name__}")
        require_unicode(name, text)


def _warn_of_cuts(cut: Sequence[int], max_len: int) -> None:
    if not cut:
        return
    named = ", ".join(str(i) for i in cut[:_N_NAMED]) + (", ..." if len(cut) > _N_NAMED else "")
    _logger.warning("%d texts were truncated to %d tokens: %s", len(cut), max_len, named)


def _normalized(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)
