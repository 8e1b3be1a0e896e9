"""Uploaded files, and what bounds them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from batch_stand_in import COMPLETIONS, Routes, batches_in, begin, end, keep, line_of
from fastapi import FastAPI, Request
from llamaherd.server.access.api_keys import ANYONE
from llamaherd.server.batch_api import batch_routes, batch_service, file_routes, file_store
from llamaherd.server.common.errors import install_handlers
from llamaherd.server.common.limits import Limits
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.jobs.context import Context

LIMITS = Limits(max_file_mib=1000 / (1 << 20), max_batch_lines=50)


@contextlib.asynccontextmanager
async def client_in(
    folder: Path, routes: Routes | None = None, limits: Limits = LIMITS
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the routes of files and batches. `app.state.batches` are its transport's."""
    app = FastAPI()
    install_handlers(app)
    app.include_router(file_routes.router)
    app.include_router(batch_routes.router)
    pool: Any = None
    app.state.context = Context(ServerSettings(limits=limits), pool, pool)

    @app.middleware("http")
    async def let_in(request: Request, call_next: Any) -> Any:
        request.state.key = ANYONE
        return await call_next(request)

    async with batches_in(folder, routes or Routes(), limits=limits) as app.state.batches:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            client.batches = app.state.batches  # type: ignore[attr-defined]
            yield client


@pytest.fixture
def http(tmp_path: Path) -> Callable[..., httpx.Response]:
    """Posts to /v1/files of a server that takes 1000 bytes."""

    async def post(**options: Any) -> httpx.Response:
        async with client_in(tmp_path) as client:
            return await client.post("/v1/files", **options)

    return lambda **options: asyncio.run(post(**options))


def test_uploads_that_are_taken(http: Callable[..., httpx.Response], tmp_path: Path) -> None:
    answer = http(files={"file": ("../../etc/passwd", b"x" * 1000)}, data={"purpose": "batch"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["filename"], answer.json()["bytes"]) == ("../../etc/passwd", 1000)
    (path,) = (tmp_path / "files").iterdir()
    assert path.name == answer.json()["id"]
    assert path.read_bytes() == b"x" * 1000


BATCH = {"purpose": "batch"}
AFTER = {"expires_after[anchor]": "created_at"}
SECONDS = "expires_after[seconds]"
FORM = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\nbatch\r\n'


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        ({"files": {"file": b"x" * 1001}, "data": BATCH}, 413, "1000 bytes"),
        ({"files": {"file": b"\n" * 51}, "data": BATCH}, 400, "50 lines"),
        ({"files": {"file": ("x" * 513, b"x")}, "data": BATCH}, 400, "512 characters"),
        ({"files": {"file": b"x"}, "data": {**BATCH, **AFTER, SECONDS: "3599"}}, 400, "3600"),
        ({"files": {"file": b"x"}, "data": {**BATCH, **AFTER, SECONDS: "2592001"}}, 400, "2592000"),
        ({"files": {"file": b"x"}, "data": {**BATCH, **AFTER, SECONDS: "9" * 5000}}, 400, "number"),
        ({"files": {"file": b"x"}, "data": {**BATCH, **AFTER, SECONDS: "-1"}}, 400, "number"),
        ({"files": {"file": b"x"}, "data": {**BATCH, **AFTER}}, 400, "number"),
        ({"files": {"file": b"x"}, "data": {**BATCH, SECONDS: "3600"}}, 400, "created_at"),
        ({"files": {"file": b"x"}, "data": {"purpose": "y" * 60_000}}, 400, "purpose must"),
        ({"files": {"file": b"x"}, "data": {**BATCH, "y" * 3000: "1"}}, 400, "not supported"),
        ({"files": {"file": b"x"}, "data": {"purpose": "vision"}}, 400, "purpose"),
        ({"files": {"file": b"x"}}, 400, "purpose"),
        ({"files": {"other": b"x"}, "data": BATCH}, 400, "other is not supported"),
        ({"files": {"file": b"x"}, "data": {"purpos": "batch"}}, 400, "did you mean purpose?"),
        ({"files": {"file": b"x"}, "data": {**BATCH, "expires": "1"}}, 400, "expires is not"),
        ({"files": {"file": b"x"}, "data": {"purpose": "x" * 70_000}}, 413, "fields may have"),
        ({"files": [("file", b"x"), ("file", b"y")], "data": BATCH}, 400, "one file"),
        ({"files": [(f"f{i}", b"x") for i in range(20)]}, 400, "16 fields"),
        ({"data": BATCH}, 400, "multipart"),
        ({"json": {}}, 400, "multipart"),
        ({"content": b"", "headers": FORM}, 400, "incomplete"),
        ({"content": PART % b"purpose" + b"--b--\r\n", "headers": FORM}, 400, "file is missing"),
        ({"content": PART % b"file", "headers": FORM}, 400, "incomplete"),
        ({"content": b"nonsense", "headers": FORM}, 400, "invalid form"),
    ],
)
def test_uploads_that_are_refused(
    http: Callable[..., httpx.Response],
    tmp_path: Path,
    options: dict[str, Any],
    status: int,
    expected: str,
) -> None:
    answer = http(**options)
    assert answer.status_code == status, answer.text
    assert expected in answer.json()["error"]["message"]
    assert len(answer.text) < 1000
    assert not list((tmp_path / "files").iterdir())


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    left = [folder / f"file-{'0' * 32}", folder / f"file-{'1' * 32}.part"]
    theirs = folder / "notes.txt"
    for path in (*left, theirs):
        path.write_text("x")

    async def run() -> None:
        async with batches_in(tmp_path, Routes()):
            pass

    asyncio.run(run())
    assert list(folder.iterdir()) == [theirs]


async def upload(client: httpx.AsyncClient, n_bytes: int = 1, **fields: str) -> httpx.Response:
    files = {"file": ("x", b"x" * n_bytes)}
    return await client.post("/v1/files", files=files, data={**BATCH, **fields})


def error_code(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


async def test_parallel_uploads_share_a_quota(tmp_path: Path) -> None:
    limits = Limits(max_files_mib=1000 / (1 << 20), max_files=5)
    async with client_in(tmp_path, limits=limits) as client:
        for n_bytes, n_taken in ((300, 3), (10, 5)):
            answers = await asyncio.gather(*(upload(client, n_bytes) for _ in range(20)))
            statuses = Counter(answer.status_code for answer in answers)
            assert set(statuses) == {200, 403}
            assert 1 <= statuses[200] <= n_taken
            refused = next(answer for answer in answers if answer.status_code == 403)
            assert error_code(refused) == "file_quota_exceeded"
            assert len(list((tmp_path / "files").iterdir())) == statuses[200]
            for answer in answers:
                if answer.status_code == 200:
                    await client.delete(f"/v1/files/{answer.json()['id']}")
        # Nothing is counted any more.
        for _ in range(5):
            assert (await upload(client, 200)).status_code == 200
        assert (await upload(client, 1)).status_code == 403
    async with client_in(tmp_path, limits=limits) as client:  # counted anew
        assert (await upload(client, 1)).status_code == 403


async def test_what_is_half_uploaded_counts(tmp_path: Path) -> None:
    body = PART % b"purpose" + PART.replace(b"batch", b"x" * 600) % b'file"; filename="f'
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield body
        await go_on.wait()

    limits = Limits(max_files_mib=1000 / (1 << 20))
    async with client_in(tmp_path, limits=limits) as client:
        sending = asyncio.ensure_future(
            client.post("/v1/files", content=slow(), headers=FORM, timeout=60)
        )
        deadline = time.monotonic() + 20
        while (await upload(client, 600)).status_code == 200:
            for file in (await client.get("/v1/files")).json()["data"]:
                await client.delete(f"/v1/files/{file['id']}")
            assert time.monotonic() < deadline
        go_on.set()
        assert (await sending).status_code == 400  # it has no end
        assert (await upload(client, 600)).status_code == 200


async def test_what_a_batch_writes_counts_and_is_not_refused(tmp_path: Path) -> None:
    limits = Limits(max_files=2, max_body_mib=1)
    async with client_in(tmp_path, limits=limits) as client:
        batch = await end(client.batches, await begin(client.batches))
        assert batch.output_file_id
        assert batch.error_file_id
        assert (await upload(client)).status_code == 403
        for file_id in (batch.output_file_id, batch.error_file_id):
            assert (await client.delete(f"/v1/files/{file_id}")).status_code == 200
        assert (await upload(client)).status_code == 200


async def test_files_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_service, "_SWEEP_S", 0.01)
    routes = Routes()
    routes.hangs = True
    async with client_in(tmp_path, routes) as client:
        answer = await upload(client, **AFTER, **{SECONDS: "3600"})
        assert answer.json()["expires_at"] - answer.json()["created_at"] == 3600
        default = (await upload(client)).json()
        assert default["expires_at"] - default["created_at"] == 30 * 24 * 3600
        read = await begin(client.batches, expires_after_s=1)
        gone = await keep(client.batches, b"x", expires_after_s=-1)
        deadline = time.monotonic() + 20
        while (await client.get(f"/v1/files/{gone.id}")).status_code == 200:
            assert time.monotonic() < deadline
        left = {answer.json()["id"], default["id"], read.input_file_id}
        while {path.name for path in (tmp_path / "files").iterdir()} != left:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)
        await client.post(f"/v1/batches/{read.id}/cancel")
        while (await client.get(f"/v1/files/{read.input_file_id}")).status_code == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)
        assert (await client.get(f"/v1/files/{default['id']}")).status_code == 200


async def test_outputs_expire_as_they_were_asked_to(tmp_path: Path) -> None:
    async with client_in(tmp_path, limits=Limits(file_expiry_h=2)) as client:
        file = await keep(client.batches, b"{}")
        body = {"input_file_id": file.id, "endpoint": COMPLETIONS, "completion_window": "1h"}
        for seconds in (3599, 7201, 2**70, "3600", 1.5, None):
            after = {"anchor": "created_at", "seconds": seconds}
            answer = await client.post("/v1/batches", json={**body, "output_expires_after": after})
            assert answer.status_code == 400
            assert "output_expires_after.seconds" in answer.json()["error"]["message"]
        after = {"anchor": "created_at", "seconds": 3600}
        answer = await client.post("/v1/batches", json={**body, "output_expires_after": after})
        batch = await end(client.batches, await client.batches.store.get(answer.json()["id"]))
        file = (await client.get(f"/v1/files/{batch.error_file_id}")).json()
        assert file["expires_at"] - file["created_at"] == 3600


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "database"])
async def test_a_full_disk_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        write = close = flush = fail

    async with client_in(tmp_path) as client:
        with monkeypatch.context() as patch:
            if call == "write":
                patch.setattr(file_store, "open", lambda *_: Full(), raising=False)
            elif call == "fsync":
                patch.setattr(os, "fsync", fail)
            elif call == "rename":
                patch.setattr(Path, "rename", fail)
            else:
                patch.setattr(file_store, "insert_file", fail)
            answer = await upload(client, 500)
            assert answer.status_code == 507, answer.text
            assert error_code(answer) == "disk_full"
            assert str(tmp_path) not in answer.text
        assert not list((tmp_path / "files").iterdir())
        assert not (await client.get("/v1/files")).json()["data"]
        assert (await upload(client, 500)).status_code == 200


@pytest.mark.parametrize("change", ["missing", "shorter", "folder"])
async def test_a_lost_file_is_said_to_be_lost(tmp_path: Path, change: str) -> None:
    async with client_in(tmp_path) as client:
        file_id = (await upload(client, 500)).json()["id"]
        path = tmp_path / "files" / file_id
        if change == "shorter":
            path.write_bytes(b"x" * 100)
        else:
            path.unlink()
        if change == "folder":
            path.mkdir()
        answer = await client.get(f"/v1/files/{file_id}/content")
        assert (answer.status_code, error_code(answer)) == (404, "file_lost")
        assert str(tmp_path) not in answer.text
        assert (await client.delete(f"/v1/files/{file_id}")).status_code == 200
        assert not (await client.get("/v1/files")).json()["data"]
    async with client_in(tmp_path) as client:  # a folder that cannot be removed harms nothing
        assert (await upload(client, 500)).status_code == 200


SURROGATE = "\ud800"


@pytest.mark.parametrize(
    "fields",
    [
        {"input_file_id": SURROGATE},
        {"input_file_id": "file-" + "x" * 100_000},
        {"input_file_id": "file\0"},
        {"input_file_id": ["x"]},
        {"endpoint": SURROGATE},
        {"completion_window": SURROGATE},
        {"completion_window": "9" * 5000 + "h"},
        {"metadata": {SURROGATE: "x"}},
        {"metadata": {"x": SURROGATE}},
        {"metadata": {"x" * 65: "x"}},
        {"metadata": {"x": "x" * 513}},
        {"metadata": {str(i): "x" for i in range(17)}},
        {"metadata": {"x": 1}},
        {SURROGATE: 1},
    ],
)
async def test_batches_that_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with client_in(tmp_path) as client:
        file_id = (await upload(client)).json()["id"]
        body = {"input_file_id": file_id, "endpoint": COMPLETIONS, "completion_window": "1h"}
        data, headers = json.dumps({**body, **fields}), {"content-type": "application/json"}
        answer = await client.post("/v1/batches", content=data, headers=headers)
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["error"]["message"]
        answer = await client.post("/v1/batches", json=body)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files?after=%ED%A0%80",
        "/v1/files?after=%00",
        "/v1/files?limit=9223372036854775808",
        "/v1/files?limit=1e400",
        "/v1/files/%ED%A0%80",
        "/v1/files/%00/content",
        "/v1/files/..%2f..%2fbatches.sqlite/content",
        "/v1/batches?after=%ED%A0%80",
        "/v1/batches?limit=18446744073709551616",
        "/v1/batches/%ED%A0%80",
    ],
)
async def test_addresses_that_name_nothing(tmp_path: Path, path: str) -> None:
    async with client_in(tmp_path) as client:
        answer = await client.get(path)
        assert answer.status_code in (400, 404), answer.text
        assert (await client.get("/v1/files?purpose=%ED%A0%80")).json()["data"] == []


async def test_open_batches_have_a_bound_and_old_ones_are_forgotten(tmp_path: Path) -> None:
    routes = Routes()
    routes.hangs = True
    limits = Limits(max_batches=3, max_batch_records=4)
    async with client_in(tmp_path, routes, limits) as client:
        file = await keep(client.batches, b"\n".join([b"", *(b"x" for _ in range(5))]))
        lines = [line_of("a")]
        open_ones = [await begin(client.batches, lines=lines) for _ in range(3)]
        body = {"input_file_id": file.id, "endpoint": COMPLETIONS, "completion_window": "1h"}
        answer = await client.post("/v1/batches", json=body)
        assert (answer.status_code, error_code(answer)) == (429, "too_many_batches")
        await client.post(f"/v1/batches/{open_ones[0].id}/cancel")
        await end(client.batches, open_ones[0])
        for _ in range(4):
            answer = await client.post("/v1/batches", json=body)
            assert answer.status_code == 200
            await end(client.batches, await client.batches.store.get(answer.json()["id"]))
        listed = [batch["id"] for batch in (await client.get("/v1/batches")).json()["data"]]
        assert len(listed) == 4 + 2
        assert listed[0] == answer.json()["id"]
        assert listed[4:] == [open_ones[2].id, open_ones[1].id]
