"""Embedding and reranking in pieces, so that they can be cancelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event

import numpy as np

from llamaherd._core import InvalidRequestError
from llamaherd.offline.embedder import Embedder, RerankResult, Text, Vectors
from llamaherd.server.common.errors import cancelled

_PIECE_CHARS = 1 << 15  # several calls of the model
_CHARS_PER_TOKEN = 4


def embed(
    embedder: Embedder, texts: Sequence[Text], *, truncate: bool, pooling: str | None, gone: Event
) -> Vectors:
    """Normalized embeddings of texts.

    Raises:
      ApiError: The client disconnected.
      InvalidRequestError: As `Embedder.embed`.
    """
    found = []
    for begin, end in _pieces(texts):
        _require_connected(gone)
        try:
            some = texts[begin:end]
            found.append(embedder.embed(some, normalize=True, truncate=truncate, pooling=pooling))
        except InvalidRequestError:
            # Reports the index among all texts, before computing.
            embedder.embed(texts, truncate=truncate, pooling=pooling)
            raise
    return np.concatenate(found)


def rerank(
    embedder: Embedder,
    query: str,
    documents: Sequence[str],
    *,
    truncate: bool,
    pooling: str | None,
    gone: Event,
) -> list[RerankResult]:
    """Documents by relevance to a query, best first.

    Raises:
      ApiError: The client disconnected.
      InvalidRequestError: As `Embedder.rerank`.
    """
    ranked: list[RerankResult] = []
    for begin, end in _pieces(documents):
        _require_connected(gone)
        try:
            some = embedder.rerank(query, documents[begin:end], truncate=truncate, pooling=pooling)
        except InvalidRequestError:
            # Reports the index among all documents.
            embedder.rerank(query, documents, truncate=truncate, pooling=pooling)
            raise
        ranked += [RerankResult(begin + entry.index, entry.score) for entry in some]
    return sorted(ranked, key=lambda entry: (-entry.score, entry.index))


def shortened(vectors: Vectors, n: int | None) -> Vectors:
    """The first `n` components of vectors, normalized again; None: all components."""
    if n is None:
        return vectors
    vectors = vectors[:, :n]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def _pieces(texts: Sequence[Text]) -> Iterator[tuple[int, int]]:
    """Index ranges of texts that are computed together."""
    begin = n_chars = 0
    for i, text in enumerate(texts):
        n = len(text) * (1 if isinstance(text, str) else _CHARS_PER_TOKEN)
        if i > begin and n_chars + n > _PIECE_CHARS:
            yield begin, i
            begin, n_chars = i, 0
        n_chars += n
    yield begin, len(texts)


def _require_connected(gone: Event) -> None:
    if gone.is_set():
        raise cancelled()
