"""A GGUF taken apart into bytes and put together again, right or wrong: what the reader is fuzzed with."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_WIDTH = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10


@dataclass
class Field:
    """A key and its value, the value as bytes."""

    key: bytes
    kind: int
    value: bytes


@dataclass
class Tensor:
    """An entry of the table of tensors; `data` is what lies at `offset`."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int
    data: bytes


def text(value: bytes) -> bytes:
    """A string with its length."""
    return struct.pack("<Q", len(value)) + value


def array(kind: int, items: list[bytes]) -> bytes:
    """An array's bytes."""
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def take_apart(path: Path) -> tuple[list[Field], list[Tensor]]:
    """Fields and tensors of a sound file."""
    raw = path.read_bytes()
    tensor_count, field_count = struct.unpack_from("<QQ", raw, 8)
    at = 24

    def string(at: int) -> tuple[bytes, int]:
        (length,) = struct.unpack_from("<Q", raw, at)
        return raw[at + 8 : at + 8 + length], at + 8 + length

    def end_of(kind: int, at: int) -> int:
        if kind == STRING:
            return string(at)[1]
        if kind != ARRAY:
            return at + _WIDTH[kind]
        inner, count = struct.unpack_from("<IQ", raw, at)
        at += 12
        for _ in range(count):
            at = end_of(inner, at)
        return at

    fields = []
    for _ in range(field_count):
        key, at = string(at)
        (kind,) = struct.unpack_from("<I", raw, at)
        end = end_of(kind, at + 4)
        fields.append(Field(key, kind, raw[at + 4 : end]))
        at = end
    table = []
    for _ in range(tensor_count):
        name, at = string(at)
        (count,) = struct.unpack_from("<I", raw, at)
        dims = list(struct.unpack_from(f"<{count}Q", raw, at + 4))
        kind, offset = struct.unpack_from("<IQ", raw, at + 4 + 8 * count)
        at += 16 + 8 * count
        table.append((name, dims, kind, offset))
    start = -(-at // 32) * 32
    ends = sorted([offset for *_, offset in table] + [len(raw) - start])
    return fields, [
        Tensor(name, dims, kind, offset, raw[start + offset : start + ends[ends.index(offset) + 1]])
        for name, dims, kind, offset in table
    ]


def put_together(fields: list[Field], tensors: list[Tensor], counts: tuple[int, int] | None = None) -> bytes:
    """The bytes of a file; tensor data goes where the offsets say, as far as a file can be so long.

    Args:
        counts: of tensors and fields, where the header shall say others.
    """
    head = b"GGUF" + struct.pack("<IQQ", 3, *(counts or (len(tensors), len(fields))))
    head += b"".join(text(field.key) + struct.pack("<I", field.kind) + field.value for field in fields)
    for tensor in tensors:
        head += text(tensor.name) + struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        head += struct.pack("<IQ", tensor.kind, tensor.offset)
    head += bytes(-len(head) % 32)
    body = bytearray()
    for tensor in tensors:
        if tensor.offset > 1 << 24:
            continue
        body += bytes(max(0, tensor.offset + len(tensor.data) - len(body)))
        body[tensor.offset : tensor.offset + len(tensor.data)] = tensor.data
    return head + bytes(body)
