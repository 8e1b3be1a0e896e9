"""Input files of batches and forms of uploads, whatever they hold."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from batch_stand_in import COMPLETIONS, line_of
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from llamaherd.server.batch_api.batch_input import (
    InputError,
    InputLine,
    LineError,
    read_body,
    read_lines,
)
from llamaherd.server.batch_api.batch_output import answered_line, failed_line
from llamaherd.server.batch_api.file_quota import FileQuota
from llamaherd.server.batch_api.file_store import Draft
from llamaherd.server.batch_api.uploads import Form, receive_form
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits
from starlette.requests import Request

_LIMITS = Limits(max_body_mib=2000 / (1 << 20), max_json_depth=16, max_batch_lines=20)
_ODD_CHARACTERS = st.sampled_from('\0\ud800\u2028\x85\x1c\n"\\')
_TEXTS = st.text(st.characters(codec=None) | _ODD_CHARACTERS, max_size=9)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    """A line that may be good, or close to it."""
    line = {**line_of(draw(_TEXTS)), **draw(st.dictionaries(_FIELDS, _VALUES, max_size=2))}
    text = json.dumps(line, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.just(b"") | st.binary(max_size=4)) + text[at:]


_FIELDS = st.sampled_from(["custom_id", "method", "url", "body", "stream"])
_ODD = st.sampled_from(
    ["", " ", "\0", "\ufeff", "1e9999", '{"body": NaN}', *("[", '{"a":', "9", "x", "é")]
).flatmap(
    lambda text: st.sampled_from([1, 1, 9, 1000, 1999, 2000, 2001, 5000]).map(
        lambda n: (text * n).encode()
    )
)
_FILES = st.lists(_lines() | _ODD | st.binary(max_size=50), max_size=25).flatmap(
    lambda lines: st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r"]).map(lambda end: end.join(lines))
)


def _read(path: Path) -> tuple[list[InputLine], LineError | None]:
    """The lines before the first error of the file."""
    lines: list[InputLine] = []
    try:
        lines.extend(read_lines(path, COMPLETIONS, _LIMITS))
    except InputError as error:
        return lines, error.error
    return lines, None


@fuzz
@given(_FILES)
def test_every_line_is_one_to_run_or_has_an_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        path.write_bytes(data)
        lines, error = _read(path)
        assert error is None or (error.code == "too_many_lines" and data.count(b"\n") >= 20)
        begin = 0
        for line in lines:
            assert begin <= line.begin <= line.begin + line.n_bytes <= len(data)
            begin = line.begin + line.n_bytes
            if line.error is None:
                assert line.custom_id
                body = read_body(path, line)
                answer = json.dumps(body, ensure_ascii=False, indent=1)
                answer = answer.encode(errors="replace").decode()
                text = answered_line(line.custom_id, "req-1", 200, answer.encode())
                assert json.loads(text)["response"]["body"] == json.loads(answer)
            else:
                text = failed_line(line.custom_id, line.error.code, line.error.message)
                assert json.loads(text)["custom_id"] == line.custom_id
                assert len(line.error.message) < 300
            assert text.splitlines() == [text]
            text.encode()
        if b"\n" not in data and data.strip() and len(data) <= 2000:
            assert len(lines) == 1


_DISPOSITION = b'content-disposition: form-data; name="%b"'
_NAMES = st.sampled_from([b"file", b"purpose", b"expires_after[seconds]"]) | st.binary(max_size=9)


@st.composite
def _parts(draw: st.DrawFn) -> bytes:
    headers = [_DISPOSITION % draw(_NAMES)]
    headers += draw(st.lists(st.binary(max_size=20), max_size=3))
    if draw(st.booleans()):
        headers[0] += b'; filename="' + draw(st.binary(max_size=20)) + b'"'
    data = draw(st.binary(max_size=50) | st.sampled_from([b"x" * 3000, b"\r\n--b", b"\n" * 30]))
    return b"--b\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + data + b"\r\n"


@st.composite
def _forms(draw: st.DrawFn) -> bytes:
    body = b"".join(draw(st.lists(_parts(), max_size=5))) + draw(
        st.sampled_from([b"--b--", b"--b--\r\n", b"--b", b"", b"--b--\r\njunk"])
    )
    at = draw(st.integers(0, len(body)))
    return body[:at] + draw(st.just(b"") | st.binary(max_size=4)) + body[at:]


async def _received(request: Request, draft: Draft) -> Form | ApiError:
    try:
        return await receive_form(request, draft, _LIMITS)
    except ApiError as error:
        return error


@fuzz
@given(_forms() | st.binary(max_size=200), st.integers(1, 400))
def test_every_form_is_read_or_refused(body: bytes, n_piece: int) -> None:
    pieces = [body[i : i + n_piece] for i in range(0, len(body), n_piece)] or [b""]

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    quota = FileQuota(_LIMITS)
    with tempfile.TemporaryDirectory() as folder:
        with Draft(Path(folder), "", quota, is_bounded=True) as draft:
            form = asyncio.run(_received(request, draft))
            if isinstance(form, ApiError):
                assert form.status in (400, 413)
                assert len(form.message) < 300
            else:
                assert (form.filename is not None) or draft.n_bytes == 0
                json.dumps([form.filename, form.fields], ensure_ascii=False).encode()
                draft.keep()
                assert (Path(folder) / draft.id).stat().st_size == draft.n_bytes <= len(body)
        assert not list(Path(folder).iterdir())
    assert not +quota._n_files
    assert not +quota._n_bytes


@pytest.mark.parametrize("at_end", [False, True])
async def test_headers_of_a_form_have_a_bound(tmp_path: Path, at_end: bool) -> None:
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += 1
        assert sent < 1000
        piece = b"x" * 4000 if sent > 1 else b"--b\r\n" + (b"x: " if at_end else b"")
        return {"type": "http.request", "body": piece, "more_body": True}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with (
        Draft(tmp_path, "", FileQuota(_LIMITS), is_bounded=True) as draft,
        pytest.raises(ApiError),
    ):
        await receive_form(request, draft, _LIMITS)
