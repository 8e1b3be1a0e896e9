"""Streams file uploads of multipart forms to disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from llamaherd.server.batch_api.file_store import Draft
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.limits import Limits

_MOST_OF_FIELDS = 1 << 16
_MOST_FIELDS = 16
_MOST_OF_HEADERS = 1 << 15


@dataclass
class Form:
    """Fields of a form other than the file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None  # None: no file was sent


async def receive_form(request: Request, draft: Draft, limits: Limits) -> Form:
    """Read a form; its field `file` is written to a draft.

    Args:
      request: Request whose body is read.
      draft: An open draft.
      limits: Limits of the file.

    Raises:
      ApiError: The body is not a valid form, or too large.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(400, "the body must be multipart/form-data")
    reader = _Reader(draft, limits)
    try:
        parser = reader.parser(options[b"boundary"])
        async for chunk in request.stream():
            await asyncio.to_thread(parser.write, chunk)
    except FormParserError as error:
        raise ApiError(400, f"invalid form: {error}") from None
    except ClientDisconnect:
        raise ApiError(400, "the client disconnected") from None
    if not reader.ended:
        raise ApiError(400, "the form is incomplete: its closing boundary is missing")
    return reader.form


class _Reader:
    """Callbacks of the multipart parser."""

    def __init__(self, draft: Draft, limits: Limits) -> None:
        self.form = Form()
        self.ended = False
        self._draft = draft
        self._limits = limits
        self._n_bytes_of_headers = 0
        self._n_bytes_of_fields = 0
        self._n_fields = 0
        self._header = self._value = b""
        self._headers: dict[str, bytes] = {}
        self._name: str | None = None  # current field; None: the file
        self._text = b""

    def parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_header,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def _begin(self) -> None:
        self._n_fields += 1
        if self._n_fields > _MOST_FIELDS:
            raise ApiError(400, f"a form may have at most {_MOST_FIELDS} fields")
        self._headers = {}
        self._text = b""

    def _count_header(self, n_bytes: int) -> None:
        self._n_bytes_of_headers += n_bytes
        if self._n_bytes_of_headers > _MOST_OF_HEADERS:
            raise ApiError(
                413, f"headers of fields may have at most {_MOST_OF_HEADERS} bytes together"
            )

    def _add_header(self, data: bytes, begin: int, end: int) -> None:
        self._count_header(end - begin)
        self._header += data[begin:end]

    def _add_value(self, data: bytes, begin: int, end: int) -> None:
        self._count_header(end - begin)
        self._value += data[begin:end]

    def _end_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._value
        self._header = self._value = b""

    def _end_headers(self) -> None:
        disposition = self._headers.get("content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name != "file":
            return
        if self.form.filename is not None:
            raise ApiError(400, "a form may have at most one file", param="file")
        self.form.filename = options.get(b"filename", b"").decode(errors="replace") or "file"
        self._name = None

    def _add_data(self, data: bytes, begin: int, end: int) -> None:
        if self._name is None:
            n_bytes = self._draft.n_bytes + end - begin
            self._limits.require("max_file_mib", n_bytes, what="a file must hold", param="file")
            self._draft.write(data[begin:end])
            n_lines = self._draft.n_lines
            self._limits.require("max_batch_lines", n_lines, what="a file must hold", param="file")
            return
        self._n_bytes_of_fields += end - begin
        if self._n_bytes_of_fields > _MOST_OF_FIELDS:
            raise ApiError(413, f"fields may have at most {_MOST_OF_FIELDS} bytes together")
        self._text += data[begin:end]

    def _end_part(self) -> None:
        if self._name is not None:
            self.form.fields[self._name] = self._text.decode(errors="replace")

    def _end(self) -> None:
        self.ended = True
