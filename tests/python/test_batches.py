"""Batch jobs by the official client: their lives, deaths and owners."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import minilm
import pytest
from llamaherd import EngineConfig
from llamaherd.server.access.api_keys import digest_of, generate_key
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types import Batch
from serving import Served, figure, serve, wait_until

pytestmark = pytest.mark.slow

CHAT: Any = "/v1/chat/completions"
COMPLETIONS: Any = "/v1/completions"
OVER = ("completed", "failed", "expired", "cancelled")


@contextlib.contextmanager
def running(folder: Path, *models: str | Path, keys: str = "") -> Iterator[Served]:
    """A server with batches, of which few lines run at once."""
    config = folder / "engine.toml"
    EngineConfig(n_ctx=4096, max_seqs=4, warmup=False).to_file(config)
    options = ("--config", str(config), "--data-dir", str(folder / "data"), "--drain-timeout", "20")
    with serve(*models, options=options, keys=keys) as served:
        yield served


def client_of(served: Served, key: str = "none") -> OpenAI:
    return OpenAI(base_url=served.url + "/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def served(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("batches")
    embedder = minilm.write(minilm.fetch(), folder / "minilm.gguf")
    with running(folder, f"chat={model_path}", f"mini={embedder}") as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with client_of(served) as client:
        yield client


def line(custom_id: str, body: dict[str, Any], url: str = COMPLETIONS) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def story(custom_id: str, **fields: Any) -> dict[str, Any]:
    body = {"prompt": f"Once upon a time, {custom_id}", "max_tokens": 4, "ignore_eos": True}
    return line(custom_id, {**body, **fields})


def begin(
    client: OpenAI,
    lines: Sequence[Any],
    endpoint: Any = COMPLETIONS,
    window: Any = "24h",
    **options: Any,
) -> Batch:
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    file = client.files.create(file=("lines.jsonl", text.encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window=window, **options
    )


def wait_for(client: OpenAI, batch: Batch, true: Callable[[Batch], bool]) -> Batch:
    deadline = time.monotonic() + 60
    while not true(batch):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def end(client: OpenAI, batch: Batch) -> Batch:
    return wait_for(client, batch, lambda batch: batch.status in OVER)


def written(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def counts(batch: Batch) -> tuple[int, int, int]:
    assert batch.request_counts
    return (
        batch.request_counts.total,
        batch.request_counts.completed,
        batch.request_counts.failed,
    )


def test_the_life_of_a_batch(client: OpenAI) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "model": "chat"}
    lines = [line(f"q{i}", body, CHAT) for i in range(10)]
    after: Any = {"anchor": "created_at", "seconds": 7200}
    batch = begin(client, lines, CHAT, "90m", metadata={"for": "tests"}, output_expires_after=after)
    assert (batch.object, batch.status, batch.endpoint) == ("batch", "validating", CHAT)
    assert batch.metadata == {"for": "tests"}
    assert batch.expires_at == batch.created_at + 90 * 60
    batch = end(client, batch)
    assert batch.status == "completed"
    assert counts(batch) == (10, 10, 0)
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert (batch.error_file_id, batch.errors) == (None, None)
    answers = written(client, batch.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"q{i}" for i in range(10)]
    assert len({answer["id"] for answer in answers}) == 10
    for answer in answers:
        assert set(answer) == {"id", "custom_id", "response", "error"}
        assert (answer["response"]["status_code"], answer["error"]) == (200, None)
        assert answer["response"]["request_id"].startswith("req-")
        assert answer["response"]["body"]["usage"]["completion_tokens"] <= 3
    assert batch.output_file_id
    output = client.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output"
    assert output.expires_at == output.created_at + 7200
    assert output.bytes == len(client.files.content(output.id).content)
    assert client.files.delete(output.id).deleted
    with pytest.raises(NotFoundError):
        client.files.content(output.id)
    assert client.files.retrieve(batch.input_file_id).filename == "lines.jsonl"


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
        ("/v1/embeddings", {"model": "mini", "input": ["a cat", "a dog"]}),
    ],
)
def test_other_endpoints(client: OpenAI, endpoint: str, body: dict[str, Any]) -> None:
    batch = end(client, begin(client, [line("a", body, endpoint)], endpoint))
    (answer,) = written(client, batch.output_file_id)
    made = answer["response"]["body"]
    if endpoint == "/v1/responses":
        assert made["output"][0]["content"][0]["text"]
    else:
        assert [len(entry["embedding"]) for entry in made["data"]] == [384, 384]


def test_what_is_wrong_with_a_line_stays_with_it(client: OpenAI) -> None:
    lines = [
        story("good"),
        "{no json",
        line("", {}),
        {"method": "POST", "url": COMPLETIONS, "body": {}},
        story("good"),
        line("elsewhere", {}, CHAT),
        story("streamed", stream=True),
        story("hot", temperature=1000),
        story("nobody", model="gpt-9"),
        "",
        story("urgent", priority=3),
    ]
    batch = end(client, begin(client, lines))
    assert batch.status == "completed"
    assert counts(batch) == (10, 2, 8)
    assert [x["custom_id"] for x in written(client, batch.output_file_id)] == ["good", "urgent"]
    told = []
    for entry in written(client, batch.error_file_id):
        error = entry["error"]
        if error is None:
            assert entry["response"]["status_code"] in (400, 404)
            error = entry["response"]["body"]["error"]
        told.append((entry["custom_id"], error["code"], error["message"]))
    assert [(custom_id, code) for custom_id, code, _ in told] == [
        (None, "invalid_json_line"),
        (None, "invalid_custom_id"),
        (None, "missing_custom_id"),
        ("good", "duplicate_custom_id"),
        ("elsewhere", "invalid_url"),
        ("streamed", "stream_not_supported"),
        ("hot", None),
        ("nobody", "model_not_found"),
    ]
    assert told[0][2].startswith("line 2: ")
    assert "temperature must be in [0, 100]" in told[6][2]


@pytest.mark.parametrize(
    ("lines", "code"),
    [([], "empty_file"), (["", ""], "empty_file"), (["A letter.", "Yours"], "invalid_json_line")],
)
def test_a_file_that_holds_no_lines_fails_its_batch(
    client: OpenAI, lines: list[str], code: str
) -> None:
    batch = end(client, begin(client, lines))
    assert (batch.status, counts(batch)) == ("failed", (0, 0, 0))
    assert batch.failed_at
    assert batch.errors
    assert batch.errors.data
    assert batch.errors.data[0].code == code
    assert batch.errors.data[0].line == (1 if "json" in code else None)


def test_what_is_done_when_a_batch_is_cancelled_is_kept(client: OpenAI) -> None:
    lines = [story(f"short-{i}") for i in range(4)]
    lines += [story(f"long-{i}", max_tokens=3000) for i in range(40)]
    batch = begin(client, lines)
    with pytest.raises(BadRequestError, match="in use by batch"):
        client.files.delete(batch.input_file_id)
    batch = wait_for(client, batch, lambda batch: counts(batch)[1] >= 4)
    assert (batch.status, counts(batch)) == ("in_progress", (44, 4, 0))
    answer = client.completions.create(model="chat", prompt="Now", max_tokens=2)
    assert answer.usage
    assert counts(client.batches.retrieve(batch.id)) == (44, 4, 0)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = end(client, batch)
    assert batch.status == "cancelled"
    assert counts(batch)[1] == 4  # none of the long ones ran to its end
    assert None not in (batch.cancelling_at, batch.cancelled_at)
    ids = [x["custom_id"] for x in written(client, batch.output_file_id)]
    assert ids == [f"short-{i}" for i in range(4)]
    assert batch.error_file_id is None
    assert client.batches.cancel(batch.id).status == "cancelled"
    assert client.files.delete(batch.input_file_id).deleted


def test_lists_are_read_page_by_page(client: OpenAI) -> None:
    made = [begin(client, [story("a", max_tokens=1)]) for _ in range(5)]
    for batch in made:
        end(client, batch)
    ids = [batch.id for batch in reversed(made)]
    page = client.batches.list(limit=2)
    assert ([batch.id for batch in page.data], page.has_more) == (ids[:2], True)
    page = client.batches.list(limit=2, after=ids[1])
    assert [batch.id for batch in page.data] == ids[2:4]
    everything = list(client.batches.list(limit=2))
    for listing in (client.batches, client.files):
        whole = listing.list().model_dump()
        last = whole["data"][-1]["id"]
        assert (whole["first_id"], whole["last_id"]) == (whole["data"][0]["id"], last)
        assert not whole["has_more"]
        none = listing.list(after=last).model_dump()
        assert [none[key] for key in ("data", "first_id", "last_id", "has_more")] == [
            [],
            None,
            None,
            False,
        ]
    assert [batch.id for batch in everything][:5] == ids
    assert len({batch.id for batch in everything}) == len(everything)
    files = list(client.files.list(purpose="batch", limit=3))
    assert [file.id for file in files][:5] == [batch.input_file_id for batch in reversed(made)]
    assert [file.id for file in client.files.list(purpose="batch", order="asc")] == [
        file.id for file in reversed(files)
    ]


def test_requests_that_break_a_rule(client: OpenAI) -> None:
    after: Any = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=b"{}", purpose="batch", expires_after=after)
    assert file.expires_at == file.created_at + 3600
    for window in ("0h", "24", "1d", "-1h", "100000h", "1.5h"):
        with pytest.raises(BadRequestError, match="completion_window"):
            begin(client, [], window=window)
    with pytest.raises(BadRequestError, match="endpoint"):
        begin(client, [], "/v1/rerank")
    with pytest.raises(BadRequestError, match=r"output_expires_after\.seconds"):
        begin(client, [], output_expires_after={"anchor": "created_at", "seconds": 1})
    with pytest.raises(BadRequestError, match=r"expires_after\[seconds\] must be in"):
        client.files.create(
            file=b"{}", purpose="batch", expires_after={"anchor": "created_at", "seconds": 1}
        )
    with pytest.raises(BadRequestError, match="metadata"):
        begin(client, [], metadata={"k" * 65: "v"})
    calls: list[Any] = [client.files.retrieve, client.files.content, client.files.delete]
    for call in calls:
        for file_id in ("file-0", "..%2Fbatches.sqlite", file.id.upper()):
            with pytest.raises(NotFoundError):
                call(file_id)
    calls = [client.batches.retrieve, client.batches.cancel]
    for call in calls:
        with pytest.raises(NotFoundError, match="does not exist"):
            call("batch_0")
    with pytest.raises(NotFoundError, match="does not exist"):
        client.batches.list(after="batch_0")
    with pytest.raises(NotFoundError, match="does not exist"):
        client.batches.create(input_file_id="file-0", endpoint=COMPLETIONS, completion_window="24h")


def test_a_refused_upload_does_not_harm_the_next_request(served: Served) -> None:
    big = [("file", ("a", b"x")), ("file", ("b", b"x" * (4 << 20)))]
    with httpx.Client(base_url=served.url, timeout=60) as http:
        for _ in range(5):
            answer = http.post("/v1/files", files=big, data={"purpose": "batch"})
            assert (answer.status_code, answer.headers["connection"]) == (400, "close")
            assert "most one file" in answer.json()["error"]["message"]
            assert http.get("/health").status_code == 200


def test_a_client_that_sends_all_before_it_reads_gets_the_refusal(served: Served) -> None:
    part = b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\nx\r\n'
    connection = HTTPConnection(*served.url.removeprefix("http://").split(":"), timeout=60)
    with contextlib.closing(connection):
        headers = {"content-type": "multipart/form-data; boundary=b"}
        connection.request("POST", "/v1/files", 2 * part + b"x" * (32 << 20), headers)
        answer = connection.getresponse()
        assert answer.status == 400
        assert b"most one file" in answer.read()


def test_there_is_no_batch_without_a_folder(model_path: Path) -> None:
    with serve(model_path, options=("--n-ctx", "1024")) as served, client_of(served) as client:
        for call in (client.files.list, client.batches.list, lambda: begin(client, ["{}"])):
            with pytest.raises(NotFoundError, match="--data-dir"):
                call()


def test_killed_at_any_time_a_batch_goes_on_and_no_line_comes_twice(
    model_path: Path, tmp_path: Path
) -> None:
    lines = [story(f"line-{i}", max_tokens=8) for i in range(90)]
    batch = None
    # Far enough apart that no line is under way at two of them.
    for n_done in (0, 30, 60):
        with running(tmp_path, model_path) as served, client_of(served) as client:
            batch = client.batches.retrieve(batch.id) if batch else begin(client, lines)
            batch = wait_for(client, batch, lambda batch: counts(batch)[1] >= n_done)  # noqa: B023
            served.process.kill()
    assert batch
    with running(tmp_path, model_path) as served, client_of(served) as client:
        batch = end(client, batch)
        assert (batch.status, counts(batch)) == ("completed", (90, 90, 0))
        ids = [x["custom_id"] for x in written(client, batch.output_file_id)]
        assert ids == [f"line-{i}" for i in range(90)]


def test_a_batch_outlives_sigterm_and_its_window_does_not_wait(
    model_path: Path, tmp_path: Path
) -> None:
    lines = [story(f"line-{i}", max_tokens=60) for i in range(30)]
    with running(tmp_path, model_path) as served, client_of(served) as client:
        batch = begin(client, lines)
        batch = wait_for(client, batch, lambda batch: counts(batch)[1] >= 2)
        assert served.stop() == 0
    assert not any("Traceback" in line for line in served.lines)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "batches.sqlite")) as connection:
        with connection:
            connection.execute("UPDATE batches SET expires_at = ?", [int(time.time()) - 1])
        ((n_done,),) = connection.execute("SELECT n_completed FROM batches")
    assert 2 <= n_done < 30
    with running(tmp_path, model_path) as served, client_of(served) as client:
        batch = end(client, batch)
        assert (batch.status, counts(batch)) == ("expired", (30, n_done, 30 - n_done))
        assert batch.expired_at
        done = written(client, batch.output_file_id)
        left = written(client, batch.error_file_id)
        assert {x["error"]["code"] for x in left} == {"batch_expired"}
        assert sorted(x["custom_id"] for x in done + left) == sorted(x["custom_id"] for x in lines)
        with pytest.raises(BadRequestError, match="status is expired"):
            client.batches.cancel(batch.id)
        with serve(model_path, options=("--data-dir", str(tmp_path / "data"))) as second:
            assert second.process.wait(60) == 1
            said = second.logged("another server")
            assert said.startswith("llamaherd: ")
            assert not any("Traceback" in line for line in second.lines)


def test_lines_of_a_batch_count_among_the_requests_of_their_key(
    model_path: Path, tmp_path: Path
) -> None:
    key = generate_key()
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([{"name": "a", "hash": digest_of(key), "max_running": 3}]))
    options = ("--data-dir", str(tmp_path / "data"), "--api-keys", str(keys), "--n-ctx", "4096")
    with serve(model_path, options=options) as served, client_of(served, key) as client:
        batch = begin(client, [story(f"line-{i}", max_tokens=1500) for i in range(4)])
        with httpx.Client(
            base_url=served.url, headers={"authorization": f"Bearer {key}"}, timeout=60
        ) as http:
            wait_until(lambda: figure(http, "num_requests_running") == 2, "two do not run")
            body = {"prompt": "Count.", "max_tokens": 1500, "ignore_eos": True, "stream": True}
            with http.stream("POST", COMPLETIONS, json=body) as third:
                pieces = third.iter_bytes()  # whose end would be the connection's
                next(pieces)
                refused = httpx.get(served.url + "/v1/models", headers=http.headers)
                assert refused.status_code == 429
        client.batches.cancel(batch.id)
        assert end(client, batch).status == "cancelled"


def test_files_and_batches_are_their_owners(model_path: Path, tmp_path: Path) -> None:
    with running(tmp_path, model_path, keys="one,two") as served:
        one, two = client_of(served, "one"), client_of(served, "two")
        with one, two:
            batch = end(one, begin(one, [story("mine")]))
            assert counts(batch) == (1, 1, 0)
            assert batch.output_file_id
            calls: list[Any] = [two.files.retrieve, two.files.content, two.files.delete]
            for call in calls:
                for file_id in (batch.input_file_id, batch.output_file_id):
                    with pytest.raises(NotFoundError):
                        call(file_id)
            calls = [two.batches.retrieve, two.batches.cancel]
            for call in calls:
                with pytest.raises(NotFoundError):
                    call(batch.id)
            with pytest.raises(NotFoundError):
                two.batches.create(
                    input_file_id=batch.input_file_id,
                    endpoint=COMPLETIONS,
                    completion_window="24h",
                )
            assert (list(two.files.list()), list(two.batches.list())) == ([], [])
            assert len(list(one.files.list())) == 2
            assert [found.id for found in one.batches.list()] == [batch.id]
