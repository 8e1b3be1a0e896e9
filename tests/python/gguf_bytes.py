"""GGUF files as lists that can be changed in ways that no writer would: for mutants."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

ARRAY = 9
STRING = 8
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i",
    6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
FLOATS = (6, 12)
INTEGERS = tuple(kind for kind in _SCALARS if kind not in FLOATS)


@dataclass
class Pair:
    """A key with its value; of an array `element` is the elements' type and value a list."""

    key: bytes
    kind: int
    value: Any
    element: int = 0


@dataclass
class Tensor:
    """What the header says of a tensor."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int


@dataclass
class Gguf:
    """A file taken apart; `data` is what stands behind the header's padding."""

    pairs: list[Pair]
    tensors: list[Tensor]
    data: bytes
    version: int = 3
    alignment: int = 32
    n_pairs_off: int = 0  # by how much the header's counts are wrong
    n_tensors_off: int = 0
    tail: bytes = field(default=b"")


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> bytes:
        n = self.scalar("<Q")
        self.at += n
        return self.raw[self.at - n : self.at]

    def value(self, kind: int) -> Any:
        return self.text() if kind == STRING else self.scalar(_SCALARS[kind])


def parse(raw: bytes) -> Gguf:
    """Takes a well-formed file apart."""
    reader = _Reader(raw)
    assert reader.scalar("<I") == int.from_bytes(b"GGUF", "little")
    version, n_tensors, n_pairs = (reader.scalar(form) for form in ("<I", "<Q", "<Q"))
    pairs = []
    for _ in range(n_pairs):
        key, kind = reader.text(), reader.scalar("<I")
        if kind == ARRAY:
            element, n = reader.scalar("<I"), reader.scalar("<Q")
            pairs.append(Pair(key, kind, [reader.value(element) for _ in range(n)], element))
        else:
            pairs.append(Pair(key, kind, reader.value(kind)))
    tensors = []
    for _ in range(n_tensors):
        name, n_dims = reader.text(), reader.scalar("<I")
        dims = [reader.scalar("<Q") for _ in range(n_dims)]
        tensors.append(Tensor(name, dims, reader.scalar("<I"), reader.scalar("<Q")))
    begin = -(-reader.at // 32) * 32
    return Gguf(pairs, tensors, raw[begin:], version)


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _value(kind: int, value: Any) -> bytes:
    """A value as a type, whatever it was before."""
    if kind == STRING:
        return _text(value if isinstance(value, bytes) else str(value).encode())
    form = _SCALARS.get(kind, "<I")
    number: Any = int.from_bytes(value[:4], "little") if isinstance(value, bytes) else value
    if kind in FLOATS:
        try:
            return struct.pack(form, float(number))
        except OverflowError:
            return struct.pack(form, float("inf"))
    size = struct.calcsize(form)
    bits = (
        struct.unpack("<Q", struct.pack("<d", number))[0] if isinstance(number, float) else number
    )
    return (bits % (1 << 8 * size)).to_bytes(size, "little")


def serialize(gguf: Gguf) -> bytes:
    """Puts a file together as its parts say, however wrong they are."""
    out = [b"GGUF", struct.pack("<I", gguf.version)]
    out.append(struct.pack("<Q", (len(gguf.tensors) + gguf.n_tensors_off) % 2**64))
    out.append(struct.pack("<Q", (len(gguf.pairs) + gguf.n_pairs_off) % 2**64))
    for pair in gguf.pairs:
        out += [_text(pair.key), struct.pack("<I", pair.kind)]
        if pair.kind == ARRAY:
            values = pair.value if isinstance(pair.value, list) else [pair.value]
            out.append(struct.pack("<IQ", pair.element, len(values)))
            out += [_value(pair.element, value) for value in values]
        else:
            value = pair.value[0] if isinstance(pair.value, list) and pair.value else pair.value
            out.append(_value(pair.kind, 0 if isinstance(value, list) else value))
    for tensor in gguf.tensors:
        out += [_text(tensor.name), struct.pack("<I", len(tensor.dims))]
        out += [struct.pack("<Q", dim % 2**64) for dim in tensor.dims]
        out.append(struct.pack("<IQ", tensor.kind, tensor.offset % 2**64))
    header = b"".join(out)
    pad = -len(header) % max(gguf.alignment, 1)
    return header + bytes(pad) + gguf.data + gguf.tail
