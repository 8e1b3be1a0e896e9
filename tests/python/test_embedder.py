"""Embeddings and rankings of a real model, against a float64 computation with its weights."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import minilm
import numpy as np
import pytest
from conftest import skip_or_fail
from llamaherd import (
    LLM,
    BatchEngine,
    Embedder,
    EngineConfig,
    InvalidRequestError,
    ModelLoadError,
    NotGenerativeError,
)

TEXTS = [
    "This is an example sentence",
    "Each sentence is converted",
    "Le café est très bon; it costs 3.50 €!",
    "word " * 300,
    "x",
]


@pytest.fixture(scope="session")
def source() -> minilm.MiniLM:
    try:
        return minilm.fetch()
    except ModelLoadError as error:
        skip_or_fail(f"all-MiniLM-L6-v2 cannot be had: {error}")
        raise


@pytest.fixture(scope="session")
def path(source: minilm.MiniLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm.write(source, tmp_path_factory.mktemp("minilm") / "minilm.gguf")


@pytest.fixture(scope="session")
def ranking_path(source: minilm.MiniLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranking")
    return minilm.write(source, folder / "ranking.gguf", rank_head=True)


@pytest.fixture(scope="module")
def embedder(path: Path) -> Embedder:
    return Embedder(path, progress=False)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def tokens_of(source: minilm.MiniLM, text: str) -> list[int]:
    """WordPiece of texts of plain lower-case words."""
    ids = {token: i for i, token in enumerate(source.vocabulary)}
    return [ids["[CLS]"], *(ids[word] for word in text.lower().split()), ids["[SEP]"]]


def test_vectors_are_those_of_the_weights(source: minilm.MiniLM, embedder: Embedder) -> None:
    texts = ["this is an example sentence", "each sentence is converted", "a " * 100, "cat"]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 384)
    assert embedder.pooling == "mean"
    for text, vector in zip(texts, vectors, strict=True):
        expected = minilm.hidden(source, tokens_of(source, text)).mean(axis=0)
        assert cosine(vector, expected) > 0.9999


def test_batch_mates_and_order_change_nothing(embedder: Embedder) -> None:
    rng = random.Random(4)
    words = ["time", "person", "year", "way", "thing", "man", "world", "life", "hand", "eye"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(150)] + TEXTS
    n_calls = embedder._core.n_calls
    together = embedder.embed(texts)
    assert embedder._core.n_calls - n_calls < len(texts) / 4
    for i in rng.sample(range(len(texts)), 20):
        alone = embedder.embed(texts[i])[0]
        assert cosine(alone, together[i]) > 0.99999
        assert np.allclose(alone, together[i], atol=5e-3)


def test_normalized_vectors_have_length_one(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS, normalize=True)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_long_texts_are_refused_or_cut_aloud(
    embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    long = "word " * 600
    too_long = r"is 512 tokens per text \(max_len\); text 1 has \d{3}: shorten it"
    with pytest.raises(InvalidRequestError, match=too_long):
        embedder.embed(["short", long])
    with caplog.at_level(logging.WARNING, logger="llamaherd"):
        cut = embedder.embed([long, "short"], truncate=True)
    assert "1 texts were truncated to 512 tokens: 0" in caplog.text
    assert cosine(cut[0], embedder.embed("word " * 510)[0]) > 0.99999  # with [CLS] and [SEP]


def test_no_texts_and_bad_ones(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)
    assert embedder.rerank("x", []) == []
    assert embedder.embed("").shape == (1, 384)  # [CLS] [SEP]
    with pytest.raises(TypeError, match="documents must be str; got list"):
        embedder.rerank("x", [[101, 102]])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="texts must be str or token ids; got int"):
        embedder.embed(["a", 5])  # type: ignore[list-item]
    with pytest.raises(InvalidRequestError, match="not valid Unicode"):
        embedder.embed("\ud800")
    with pytest.raises(InvalidRequestError, match="pooling must be one of"):
        Embedder("smollm2-135m-instruct", pooling="max", progress=False)


def test_token_ids_are_texts_too(
    source: minilm.MiniLM, embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    ids = tokens_of(source, "this is an example sentence")
    (expected,) = embedder.embed("this is an example sentence")
    for texts in (ids, [ids], np.array(ids), np.array([ids, ids]), ["x", ids], [tuple(ids)]):
        assert np.allclose(embedder.embed(texts)[-1], expected, atol=5e-3)  # type: ignore[arg-type]
    assert embedder.count_tokens(ids) == len(ids)
    assert embedder.embed([ids, ids[:3]]).shape == (2, 384)
    n_vocab = len(source.vocabulary)
    for bad in ([n_vocab], [-1]):
        with pytest.raises(InvalidRequestError, match=rf"must be in \[0, {n_vocab}\); got"):
            embedder.embed(bad)
    with pytest.raises(InvalidRequestError, match="must fit 32 bits"):
        embedder.embed([1 << 40])
    with pytest.raises(InvalidRequestError, match="text 1 has no tokens"):
        embedder.embed([ids, []])
    with pytest.raises(TypeError, match="token ids must be int"):
        embedder.embed([ids, [1.5]])  # type: ignore[list-item]
    with pytest.raises(InvalidRequestError, match="text 0 has 513"):
        embedder.embed([101] * 513)
    with caplog.at_level(logging.WARNING, logger="llamaherd"):
        assert embedder.embed([101] * 513, truncate=True).shape == (1, 384)
    assert "1 texts were truncated" in caplog.text


def test_a_call_can_have_another_pooling(source: minilm.MiniLM, embedder: Embedder) -> None:
    ids = tokens_of(source, "each sentence is converted")
    hidden = minilm.hidden(source, ids)
    for pooling, expected in (
        ("mean", hidden.mean(axis=0)), ("cls", hidden[0]), ("last", hidden[-1]),
    ):  # fmt: skip
        (vector,) = embedder.embed("each sentence is converted", pooling=pooling)
        assert cosine(vector, expected) > 0.9999
    for pooling in ("rank", "none", "max"):
        with pytest.raises(InvalidRequestError, match="pooling"):
            embedder.embed("x", pooling=pooling)


def test_similar_documents_come_first(embedder: Embedder) -> None:
    documents = ["The stock market fell.", "A kitten sleeps on the sofa.", "Bread needs flour."]
    ranked = embedder.rerank("a small cat is resting", documents)
    assert ranked[0].index == 1
    assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
    assert all(-1.001 <= r.score <= 1.001 for r in ranked)


def test_a_ranking_head_reads_query_and_document(
    source: minilm.MiniLM, ranking_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranker = Embedder(ranking_path, progress=False)
    assert ranker.pooling == "rank"
    documents = ["the cat sleeps", "money is time", "it is a long way"]
    ranked = ranker.rerank("where is the cat", documents)
    ids = tokens_of(source, "where is the cat")
    for r in ranked:
        pair = ids + tokens_of(source, documents[r.index])[1:]
        assert r.score == pytest.approx(minilm.score(source, pair), abs=0.02)
    assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
    with pytest.raises(InvalidRequestError, match="use rerank"):
        ranker.embed("x")
    with pytest.raises(InvalidRequestError, match="query and document together"):
        ranker.rerank("word " * 520, ["x"])
    with pytest.raises(InvalidRequestError, match="text 0 has 524"):
        ranker.rerank("x", ["word " * 520])
    with caplog.at_level(logging.WARNING, logger="llamaherd"):
        ranker.rerank("x", ["word " * 520], truncate=True)
    assert "1 texts were truncated" in caplog.text


def test_an_llm_embeds_with_either_kind_of_model(path: Path, model_path: Path) -> None:
    with LLM(path, progress=False) as llm:
        assert llm.embed(TEXTS, normalize=True).shape == (5, 384)
        assert llm.rerank("cat", ["dog", "a cat"])[0].index == 1
        with pytest.raises(NotGenerativeError, match="embedding model"):
            llm.generate("x")
    with LLM(model_path, EngineConfig(n_ctx=512), progress=False) as llm:
        with pytest.raises(InvalidRequestError, match="pass pooling="):
            llm.embed("x")
        assert llm.embed("x", pooling="last").shape == (1, 576)
        assert len(llm.rerank("cat", ["stocks", "a cat"], pooling="mean")) == 2
        beside = Embedder(llm.engine, pooling="mean")
        vectors = beside.embed(["a cat", "a kitten", "stock market"], normalize=True)
        assert vectors.shape == (3, 576)
        assert llm.generate("x").pop().text
        again = beside.embed("a cat", normalize=True)[0]
        assert np.allclose(again, vectors[0], atol=1e-2)


def test_embedding_models_generate_nothing(path: Path) -> None:
    with pytest.raises(NotGenerativeError, match="embeddings only"):
        BatchEngine(path, progress=False)


def test_an_llm_can_be_given_a_pooling(model_path: Path) -> None:
    config = EngineConfig(n_ctx=512, warmup=False)
    with LLM(model_path, config, pooling="last", progress=False) as llm:
        assert llm.embedder.pooling == "last"
        # The last token's vector depends on all before it: attention is causal.
        first, other, same = llm.embed(["a b", "c b", "a b"], normalize=True)
        assert cosine(first, same) > 0.9999
        assert cosine(first, other) < 0.9999
        assert np.allclose(llm.embed("a b", pooling="cls"), llm.embed("a z", pooling="cls"))
        assert llm.generate("x", progress=False).pop().text
    with pytest.raises(InvalidRequestError, match="pooling must be one of"):
        LLM(model_path, config, pooling="max", progress=False)
    with pytest.raises(InvalidRequestError, match="ranking head"):
        LLM(model_path, config, pooling="rank", progress=False)


def test_pooling_of_the_file_can_be_overridden(path: Path) -> None:
    with LLM(path, pooling="cls", progress=False) as llm:
        assert llm.embedder.pooling == "cls"
        assert cosine(llm.embed("a cat")[0], llm.embed("a cat", pooling="mean")[0]) < 0.9999
