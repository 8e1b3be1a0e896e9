"""What embedding models compute for many texts: some at a time, so that it can end early."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event

import numpy as np

from llamaherd._core import InvalidRequestError
from llamaherd.offline.embedder import Embedder, RerankResult, Vectors
from llamaherd.server.common.errors import cancelled

_PIECE_CHARS = 1 << 15  # several calls of the model


def embed(embedder: Embedder, texts: Sequence[str], *, truncate: bool, gone: Event) -> Vectors:
    """The vectors of texts, of length 1.

    Raises:
      ApiError: The client is gone.
      InvalidRequestError: As `Embedder.embed`.
    """
    found = []
    for begin, end in _pieces(texts):
        _require_there(gone)
        try:
            found.append(embedder.embed(texts[begin:end], normalize=True, truncate=truncate))
        except InvalidRequestError:
            embedder.embed(texts, truncate=truncate)  # says which it is of all, before it computes
            raise
    return np.concatenate(found)


def rerank(
    embedder: Embedder, query: str, documents: Sequence[str], *, truncate: bool, gone: Event
) -> list[RerankResult]:
    """Documents by how well they answer a query, the best first.

    Raises:
      ApiError: The client is gone.
      InvalidRequestError: As `Embedder.rerank`.
    """
    ranked: list[RerankResult] = []
    for begin, end in _pieces(documents):
        _require_there(gone)
        try:
            some = embedder.rerank(query, documents[begin:end], truncate=truncate)
        except InvalidRequestError:
            embedder.rerank(query, documents, truncate=truncate)  # as above
            raise
        ranked += [RerankResult(begin + entry.index, entry.score) for entry in some]
    return sorted(ranked, key=lambda entry: (-entry.score, entry.index))


def shortened(vectors: Vectors, n: int | None) -> Vectors:
    """The first `n` numbers of vectors, scaled to length 1 anew; None: the vectors."""
    if n is None:
        return vectors
    vectors = vectors[:, :n]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def _pieces(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where texts begin and end that are computed together."""
    begin = n_chars = 0
    for i, text in enumerate(texts):
        if i > begin and n_chars + len(text) > _PIECE_CHARS:
            yield begin, i
            begin, n_chars = i, 0
        n_chars += len(text)
    yield begin, len(texts)


def _require_there(gone: Event) -> None:
    if gone.is_set():
        raise cancelled()
