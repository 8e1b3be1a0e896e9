"""The begin token (BOS) is used once, whether a text brings it or not."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
import tiny_tokenizers
from llamaherd import LLM, BatchEngine, EngineConfig, SamplingParams
from serving import serve

CONFIG = EngineConfig(n_ctx=256, max_seqs=2, n_threads=1, warmup=False)
ONE = SamplingParams(max_tokens=1, temperature=0)
KINDS = {"bpe": tiny_tokenizers.bpe, "spm": tiny_tokenizers.spm}


def n_begins(engine: BatchEngine, text: str) -> int:
    tokens = engine.tokenize(text)
    bos = engine.model_info()["bos_token"]
    return next((i for i, token in enumerate(tokens) if token != bos), len(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_brings_it_gets_no_second_one(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_tokenizers.write(KINDS[kind](), tmp_path / "m.gguf")
    with LLM(path, CONFIG, progress=False) as llm, caplog.at_level(logging.WARNING, "llamaherd"):
        engine = llm.engine
        assert engine.model_info()["adds_bos"] is True
        assert n_begins(engine, "ab") == 1
        assert "begin token" not in caplog.text
        expected = len(engine.tokenize("ab"))
        results = llm.generate(["ab", "<s>ab"], ONE, progress=False)
        assert [result.usage.prompt_tokens for result in results] == [expected, expected]
        assert results[0].token_ids == results[1].token_ids
        llm.generate(["<s>ab"] * 2, ONE, progress=False)
        assert caplog.text.count("begins with the begin token (BOS) <s>") == 1
        # Only the added one is left out; text that is not parsed is no token.
        assert n_begins(engine, "<s><s>ab") == 2
        assert len(engine.tokenize("<s>ab", parse_special=False)) > expected
        assert n_begins(engine, "<s>") == 1
        (scores,) = llm.score(["<s>ab"], [["a"]], progress=False)
        (same,) = llm.score(["ab"], [["a"]], progress=False)
        assert scores[0].logprob == pytest.approx(same[0].logprob, abs=1e-5)


def test_a_model_that_adds_none_keeps_that_of_the_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_tokenizers.write(tiny_tokenizers.bpe(add_bos=False), tmp_path / "m.gguf")
    with BatchEngine(path, CONFIG, progress=False) as engine:
        with caplog.at_level(logging.WARNING, "llamaherd"):
            assert [n_begins(engine, text) for text in ("ab", "<s>ab", "<s><s>ab")] == [0, 1, 2]
        assert "begin token" not in caplog.text


def test_over_http(tmp_path: Path) -> None:
    path = tiny_tokenizers.write(tiny_tokenizers.bpe(), tmp_path / "m.gguf")
    with serve(path, options=("--n-ctx", "256")) as served:
        body = {"max_tokens": 1, "temperature": 0}
        counts = [
            httpx.post(f"{served.url}/v1/completions", json={**body, "prompt": prompt}).json()
            for prompt in ("ab", "<s>ab", ["<s>ab", "<s>ab"])
        ]
        n = counts[0]["usage"]["prompt_tokens"]
        assert [count["usage"]["prompt_tokens"] for count in counts] == [n, n, 2 * n]
        tokens = httpx.post(f"{served.url}/tokenize", json={"prompt": "<s>ab"}).json()
        assert tokens["count"] == n
        warnings = [line for line in served.lines if "begins with the begin token" in line]
        assert len(warnings) == 1
        assert '"level": "warning"' in warnings[0]
