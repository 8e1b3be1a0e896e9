"""The lines of a batch's input file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from batch_stand_in import COMPLETIONS, line_of
from llamaherd.server.batch_api.batch_input import InputError, read_body, read_lines
from llamaherd.server.common.limits import Limits


def limits_of(max_bytes: int, max_lines: int = 100) -> Limits:
    return Limits(max_body_mib=max_bytes / (1 << 20), max_batch_lines=max_lines)


def lines_of(path: Path, data: bytes, max_bytes: int = 200) -> list[tuple[int, Any, str | None]]:
    path.write_bytes(data)
    found = read_lines(path, COMPLETIONS, limits_of(max_bytes))
    return [(x.number, x.custom_id, x.error.code if x.error else None) for x in found]


def test_lines_are_found_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    good = [json.dumps(line_of(f"é{i}"), ensure_ascii=False).encode() for i in range(4)]
    data = b"\xef\xbb\xbf" + good[0] + b"\r\n\n" + good[1] + b"\n   \n" + good[2] + b"\n" + good[3]
    assert lines_of(path, data) == [
        (1, "é0", None),
        (3, "é1", None),
        (5, "é2", None),
        (6, "é3", None),
    ]
    bodies = [read_body(path, x) for x in read_lines(path, COMPLETIONS, limits_of(200, 6))]
    assert bodies == [{"prompt": f"é{i}"} for i in range(4)]


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    good = json.dumps(line_of("a")).encode()
    exact = json.dumps(line_of("b", body={"prompt": "x" * 110})).encode()
    exact = exact.ljust(199) + b"\n"
    data = b"x" * 100_000 + b"\n" + exact + good + b"\n" + b"y" * 201
    assert lines_of(tmp_path / "lines", data) == [
        (1, None, "line_too_long"),
        (2, "b", None),
        (3, "a", None),
        (4, None, "line_too_long"),
    ]
    assert lines_of(tmp_path / "lines", b"") == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (b"[" * 100_000, "invalid_json_line"),
        (b"9" * 10_000, "invalid_json_line"),
        (json.dumps(line_of("a", body={"x": float("nan")})).encode(), "invalid_json_line"),
        (json.dumps(line_of("a", body={"x": json.loads("[" * 126 + "]" * 126)})).encode(), None),
        (
            json.dumps(line_of("a", body={"x": json.loads("[" * 127 + "]" * 127)})).encode(),
            "json_too_deep",
        ),
        (json.dumps({**line_of("a"), "x" * 10**5: 1}).encode(), "unsupported_field"),
        (b"{}", "missing_custom_id"),
        (json.dumps(line_of("")).encode(), "invalid_custom_id"),
        (json.dumps(line_of("x" * 513)).encode(), "invalid_custom_id"),
        (json.dumps(line_of("\ud800")).encode(), "invalid_custom_id"),
        (json.dumps({**line_of("a"), "custom_id": 5}).encode(), "invalid_custom_id"),
        (json.dumps(line_of("a", extra=1)).encode(), "unsupported_field"),
        (json.dumps(line_of("a", method="GET")).encode(), "invalid_method"),
        (json.dumps(line_of("a", url="/v1/embeddings")).encode(), "invalid_url"),
        (json.dumps(line_of("a", url=["x"])).encode(), "invalid_url"),
        (json.dumps(line_of("a", body="x")).encode(), "invalid_body"),
        (json.dumps(line_of("a", body={"stream": True})).encode(), "stream_not_supported"),
        (json.dumps(line_of("a", body={"stream": "yes"})).encode(), "stream_not_supported"),
        (json.dumps(line_of("a", body={"stream": None})).encode(), None),
    ],
)
def test_rules_of_lines(tmp_path: Path, line: bytes, code: str | None) -> None:
    ((_, _, found),) = lines_of(tmp_path / "lines", line + b"\n", 1 << 20)
    assert found == code


def test_a_message_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text(json.dumps({**line_of("a"), "x" * 10**5: 1}))
    (line,) = read_lines(path, COMPLETIONS, limits_of(1 << 20, 1))
    assert line.error
    assert len(line.error.message) < 200


def test_a_file_has_a_bound_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("\n" * 99 + "{}\n")
    assert [line.number for line in read_lines(path, COMPLETIONS, limits_of(200, 100))] == [100]
    path.write_text("\n" * 100 + "{}\n")
    with pytest.raises(InputError, match="100 lines") as raised:
        list(read_lines(path, COMPLETIONS, limits_of(200, 100)))
    assert raised.value.error.code == "too_many_lines"


def test_a_line_that_has_changed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text(json.dumps(line_of("a")))
    (line,) = read_lines(path, COMPLETIONS, limits_of(200, 1))
    assert read_body(path, line) == {"prompt": "a"}
    n_bytes = path.stat().st_size
    for text in (json.dumps(line_of("b")), "x" * n_bytes, "", "\0" * n_bytes):
        path.write_text(text)
        with pytest.raises(InputError) as raised:
            read_body(path, line)
        assert raised.value.error.code == "input_file_changed"
    path.unlink()
    with pytest.raises(InputError) as raised:
        read_body(path, line)
    assert raised.value.error.code == "input_file_lost"
    assert str(tmp_path) not in str(raised.value)
