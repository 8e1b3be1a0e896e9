"""The load that bench-serve puts on a server, and the figures of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llamaherd import InvalidRequestError
from llamaherd.benchmark.load.generator import LoadSpec, run_load, synthetic_bodies
from llamaherd.benchmark.load.measurements import RequestMeasurement, percentiles, summary
from serving import Served, serve


@pytest.fixture(scope="module")
def served(model_path: Path) -> Iterator[Served]:
    with serve(model_path, options=("--n-ctx", "4096"), keys="k") as served:
        yield served


def bodies(n: int, path: str = "chat/completions") -> list[dict[str, Any]]:
    return synthetic_bodies(n, shared_words=5, words=8, max_tokens=6, path=path)


def test_texts_begin_alike_and_go_on_apart() -> None:
    first, second = bodies(2)
    assert first["messages"][0] == second["messages"][0]
    assert first["messages"][1] != second["messages"][1]
    assert bodies(2) == [first, second]
    prompts = [body["prompt"] for body in bodies(2, "completions")]
    assert prompts[0].split()[:5] == prompts[1].split()[:5]
    assert len(prompts[0].split()) == 13


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("rate", [None, 50.0])
def test_every_request_is_answered(served: Served, path: str, rate: float | None) -> None:
    spec = LoadSpec(
        url=served.url + "/v1",
        bodies=bodies(9, path),
        path=path,
        api_key="k",
        concurrency=3,
        rate=rate,
    )
    answers = asyncio.run(run_load(spec))
    figures = summary(answers)
    assert (figures["n_requests"], figures["n_errors"]) == (9, 0)
    assert figures["n_completion_tokens"] == 54
    assert figures["n_prompt_tokens"] >= 9 * 13
    for answer in answers:
        assert answer.asked_s < answer.token_s[0] <= answer.token_s[-1] <= answer.ended_s


def test_errors_are_counted_and_named(served: Served) -> None:
    spec = LoadSpec(url=served.url + "/v1", bodies=bodies(2), model="x", api_key="k")
    figures = summary(asyncio.run(run_load(spec)))
    assert figures["n_errors"] == 2
    assert figures["errors"][0].startswith("404")
    with pytest.raises(InvalidRequestError, match="must list at least one model"):
        asyncio.run(run_load(LoadSpec(url=served.url + "/v1", bodies=bodies(1))))


def test_figures_of_known_times() -> None:
    answers = [
        RequestMeasurement(0.0, [0.1, 0.2, 0.4], 0.4, n_prompt=5, n_completion=3),
        RequestMeasurement(0.0, [0.2, 0.3, 0.4], 1.0, n_prompt=5, n_completion=3),
        RequestMeasurement(0.0, error="gone"),
    ]
    figures = summary(answers)
    assert figures["tokens_per_s"] == 6
    assert figures["ttft_ms"]["mean"] == pytest.approx(150)
    assert figures["itl_ms"]["max"] == pytest.approx(200)
    assert figures["tpot_ms"]["mean"] == pytest.approx(125)
    assert figures["e2e_ms"]["p50"] == pytest.approx(400)
    assert figures["e2e_ms"]["p90"] == pytest.approx(1000)
    assert figures["errors"] == ["gone"]
    assert percentiles([]) == {}
    assert "seconds" not in summary([RequestMeasurement(0, error="x")])


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"rate": 0.0}, {"path": "embeddings"}])
def test_a_spec_out_of_range_is_refused(options: Any) -> None:
    with pytest.raises(InvalidRequestError):
        LoadSpec(url="http://x", bodies=[], **options)


def test_the_command_writes_a_table_and_json(served: Served, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, "-m", "llamaherd.cli", "bench-serve"]
    options = ["--requests", "4", "--max-tokens", "4", "--api-key", "k", "--output", str(output)]
    done = subprocess.run(
        [*command, served.url + "/v1", *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "to first token" in done.stdout
    assert json.loads(output.read_text())["n_completion_tokens"] == 16
    failed = subprocess.run(
        [*command, "http://127.0.0.1:9/v1"], capture_output=True, text=True, timeout=120
    )
    assert failed.returncode == 1
    assert "cannot reach" in failed.stderr
