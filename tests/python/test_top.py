"""llamaherd top, and the reading of figures that it stands on."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamaherd.server_metrics_client import (
    MetricsClient,
    MetricsDelta,
    Scrape,
    ScrapeError,
    quantile,
    readings,
)
from serving import serve
from test_cli import run

INF = math.inf
KEY = "sk-right"


def exported(*lines: str) -> str:
    return "\n".join(["# TYPE llamaherd_x gauge", *lines, ""])


def change(before: list[str] | None, after: list[str], seconds: float = 2.0) -> MetricsDelta:
    first = None if before is None else Scrape.parse(exported(*before), 10.0)
    return MetricsDelta(first, Scrape.parse(exported(*after), 10.0 + seconds))


@contextmanager
def answering(text: str | bytes, status: int = 200) -> Iterator[str]:
    """A server that answers everything alike; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("location", "/elsewhere")
            self.end_headers()
            self.wfile.write(text if isinstance(text, bytes) else text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, {1.0: 0, 2.0: 10, INF: 10}, 1.5),
        (0.95, {1.0: 100, INF: 100}, 0.95),
        (0.5, {1.0: 5, 2.0: 5, 4.0: 10, INF: 10}, 1.0),
        (0.75, {1.0: 5, 2.0: 5, 4.0: 10, INF: 10}, 3.0),
        (0.99, {1.0: 1, 2.0: 1, INF: 10}, 2.0),
        (1.0, {1.0: 1, 2.0: 4, INF: 4}, 2.0),
        (0.0, {1.0: 0, 2.0: 4, INF: 4}, 1.0),
        (0.5, {1.0: 0, INF: 0}, None),
        (0.5, {}, None),
    ],
)
def test_quantiles_are_linear_within_a_bucket(
    q: float, counts: dict[float, float], expected: float | None
) -> None:
    assert quantile(q, counts) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.integers(0, 50), min_size=3, max_size=8), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_that_holds_it(parts: list[int], q: float) -> None:
    bounds = [0.1 * 2**i for i in range(len(parts) - 1)]
    sums = [sum(parts[: i + 1]) for i in range(len(parts))]
    found = quantile(q, {**dict(zip(bounds, map(float, sums), strict=False)), INF: float(sums[-1])})
    if sums[-1] == 0:
        assert found is None
        return
    assert found is not None
    holder = next(i for i, n in enumerate(sums) if n >= q * sums[-1] and n > 0)
    low = bounds[holder - 1] if holder else 0.0
    high = bounds[holder] if holder < len(bounds) else low
    assert low <= found <= high * (1 + 1e-12)


def test_values_are_summed_over_what_is_not_asked_for() -> None:
    scrape = Scrape.parse(exported('llamaherd_n{m="a",k="1"} 2', 'llamaherd_n{m="b",k="1"} 3'), 0)
    assert scrape.value("n") == 5
    assert scrape.value("n", m="b") == 3
    assert scrape.value("n", m="c") is None
    assert scrape.value("none") is None
    assert scrape.values_of("n", "m") == ["a", "b"]
    assert scrape.values_of("n", "k") == ["1"]


def test_rates_and_counters_that_begin_anew() -> None:
    went_on = change(
        ['llamaherd_c_total{k="a"} 10', 'llamaherd_c_total{k="b"} 7'],
        ['llamaherd_c_total{k="a"} 14', 'llamaherd_c_total{k="b"} 7'],
    )
    assert (went_on.increase("c_total"), went_on.rate("c_total")) == (4, 2)
    assert went_on.rates_by("c_total", "k") == {"a": 2}
    anew = change(['llamaherd_c_total{k="a"} 10'], ['llamaherd_c_total{k="a"} 6'])
    assert anew.increase("c_total") == 6
    new = change([], ['llamaherd_c_total{k="a"} 6'])
    assert new.increase("c_total", k="a") == 6


def test_what_is_missing_is_none() -> None:
    first = change(None, ["llamaherd_c_total 6"])
    assert (first.increase("c_total"), first.rate("c_total")) == (None, None)
    assert first.quantile(0.5, "h_seconds") is None
    assert first.rates_by("c_total", "k") == {}
    second = change(["llamaherd_c_total 6"], ["llamaherd_c_total 6"])
    assert second.increase("other_total") is None
    assert second.part("c_total", "c_total") is None
    assert second.part("c_total", "other_total") is None
    assert second.quantile(0.5, "h_seconds") is None
    assert change(["llamaherd_c_total 6"], ["llamaherd_c_total 7"], 0.0).rate("c_total") is None


def buckets(*counts: int) -> list[str]:
    bounds = ("0.1", "1.0", "+Inf")
    return [
        f'llamaherd_h_seconds_bucket{{model_name="m",le="{bound}"}} {count}'
        for bound, count in zip(bounds, counts, strict=True)
    ]


def test_quantiles_of_what_came_in_between() -> None:
    slower = change(buckets(1000, 1000, 1000), buckets(1000, 1010, 1010))
    assert slower.quantile(0.5, "h_seconds", model_name="m") == pytest.approx(0.55)
    assert slower.quantile(0.5, "h_seconds", model_name="n") is None
    assert change(buckets(5, 5, 5), buckets(5, 5, 5)).quantile(0.5, "h_seconds") is None
    anew = change(buckets(1000, 1000, 1000), buckets(0, 10, 10))
    assert anew.quantile(0.5, "h_seconds") == pytest.approx(0.55)


@pytest.mark.parametrize(
    "text", ["", "<html>", "up 1\n", 'llamaherd_x{a="', "# TYPE a gauge\na b\n"]
)
def test_what_is_no_export_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ScrapeError, match="/metrics is not"):
        Scrape.parse(text, 0)


def test_a_reading_that_fails_is_said_and_the_next_one_counts_from_the_last_good() -> None:
    class Flaky(MetricsClient):
        answers = iter(["5", None, "9"])

        def read(self) -> Scrape:
            answer = next(self.answers)
            if answer is None:
                raise ScrapeError("away")
            return Scrape.parse(exported(f"llamaherd_c_total {answer}"), 0)

    found = readings(Flaky("x"), 0)
    first, second, third = next(found), next(found), next(found)
    assert isinstance(first, MetricsDelta)
    assert first.before is None
    assert isinstance(second, ScrapeError)
    assert isinstance(third, MetricsDelta)
    assert third.increase("c_total") == 4


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("<html>", 200, "is not"),
        (b"\xff\x00", 200, "is not"),
        ("", 401, "--api-key"),
        ("", 404, "not a llamaherd server"),
        ("", 302, "status 302"),
        ("", 500, "status 500"),
    ],
)
def test_other_servers_are_told_apart(text: str | bytes, status: int, said: str) -> None:
    with answering(text, status) as url, pytest.raises(ScrapeError, match=said):
        MetricsClient(url).read()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:1", "ftp://a", "http://[", "http://a:b", "", "file:///"]
)
def test_no_server_is_one_line_on_stderr(url: str) -> None:
    with pytest.raises(ScrapeError) as error:
        MetricsClient(url, timeout_s=2).read()
    assert "\n" not in str(error.value)


def test_what_a_server_does_not_export_is_a_dash() -> None:
    text = exported('llamaherd_num_requests_running{model_name="a [b"} 1')
    with answering(text) as url:
        done = run("top", url, "--once", "--interval", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a [b" in done.stdout
    assert "1 of - running" in done.stdout


def test_a_server_that_works(model_path: Path) -> None:
    with serve(model_path, options=("--n-ctx", "512"), keys=KEY) as served:
        url = served.url
        ask = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
        header = {"authorization": f"Bearer {KEY}"}
        with (
            httpx.Client(base_url=url, headers=header, timeout=60) as http,
            http.stream("POST", "/v1/completions", json=ask) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            done = run("top", url, "--api-key", KEY, "--once", "--interval", "0.5")
        assert (done.returncode, done.stderr) == (0, "")
        for name in ("tokens/s", "first token", "between tokens", "KV cells", "step time", "HTTP"):
            assert name in done.stdout
        assert "of 8 running" in done.stdout
        for refused in (("--api-key", "sk-wrong"), ()):
            done = run("top", url, "--once", *refused)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == (
                f"llamaherd: {url}: the server rejects the API key; "
                "set a valid one with --api-key\n"
            )
        served.stop()
    done = run("top", url)
    assert done.returncode == 1
    assert done.stderr.startswith(f"llamaherd: {url}: cannot reach the server: ")
    assert done.stderr.count("\n") == 1
