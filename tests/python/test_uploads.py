"""Uploaded files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from batch_stand_in import Routes, batches_in
from fastapi import FastAPI, Request
from llamaherd.server.errors import install_handlers
from llamaherd.server.file_routes import router
from llamaherd.server.generation import Context
from llamaherd.server.keys import ANYONE
from llamaherd.server.limits import Limits
from llamaherd.server.settings import ServerSettings


@pytest.fixture
def http(tmp_path: Path) -> Callable[..., httpx.Response]:
    """Posts to /v1/files of a server that takes 1000 bytes."""
    app = FastAPI()
    install_handlers(app)
    app.include_router(router)
    pool: Any = None
    app.state.context = Context(
        ServerSettings(limits=Limits(max_file_mib=1000 / (1 << 20))), pool, pool
    )

    @app.middleware("http")
    async def let_in(request: Request, call_next: Any) -> Any:
        request.state.key = ANYONE
        return await call_next(request)

    async def post(**options: Any) -> httpx.Response:
        async with batches_in(tmp_path, Routes()) as app.state.batches:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
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
FORM = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\nbatch\r\n'


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        ({"files": {"file": b"x" * 1001}, "data": BATCH}, 413, "1000 bytes"),
        ({"files": {"file": b"x"}, "data": {"purpose": "vision"}}, 400, "purpose"),
        ({"files": {"file": b"x"}}, 400, "purpose"),
        ({"files": {"other": b"x"}, "data": BATCH}, 400, "other is not supported"),
        ({"files": {"file": b"x"}, "data": {**BATCH, "expires": "1"}}, 400, "expires is not"),
        ({"files": {"file": b"x"}, "data": {"purpose": "x" * 70_000}}, 413, "fields may have"),
        ({"files": [("file", b"x"), ("file", b"y")], "data": BATCH}, 400, "one file"),
        ({"files": [(f"f{i}", b"x") for i in range(20)]}, 400, "16 fields"),
        ({"data": BATCH}, 400, "multipart"),
        ({"json": {}}, 400, "multipart"),
        ({"content": b"", "headers": FORM}, 400, "no end"),
        ({"content": PART % b"purpose" + b"--b--\r\n", "headers": FORM}, 400, "file is missing"),
        ({"content": PART % b"file", "headers": FORM}, 400, "no end"),
        ({"content": b"nonsense", "headers": FORM}, 400, "cannot be read"),
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
