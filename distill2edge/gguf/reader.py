"""A bounds-checked GGUF reader: every length, offset and count is compared with the file before it is used.

Layout: magic, version, tensor count, key-value count; the key-values; the tensor infos; padding to the alignment;
the tensor data. Source: the GGUF specification in the ggml repository (docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distill2edge.errors import UserError

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Far above any real model, far below what would exhaust memory.
MAX_TENSORS = 1 << 17
MAX_FIELDS = 1 << 16
MAX_KEY = (1 << 16) - 1
MAX_STRING = 1 << 26
MAX_ARRAY = 1 << 24
MAX_DIMS = 4

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies. `shape` is in row-major (torch) order; `offset` and `size` are bytes in the file."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True)
class GgufFile:
    """The checked header of a GGUF file."""

    path: Path
    version: int
    size: int
    fields: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """`general.architecture`, such as `llama`."""
        return str(self.fields["general.architecture"])

    def get(self, key: str, default: Any = None) -> Any:
        """A field; a leading dot stands for the architecture (`.block_count` is `llama.block_count`)."""
        return self.fields.get(self.full_key(key), default)

    def full_key(self, key: str) -> str:
        """A field's whole name."""
        return self.architecture + key if key.startswith(".") else key

    def require(self, key: str) -> Any:
        """A field that must be there.

        Raises:
            UserError: it is not.
        """
        value = self.get(key)
        if value is None:
            raise UserError(
                f"the GGUF has no field {self.full_key(key)}", where=str(self.path), fix="use a complete GGUF file"
            )
        return value

    def tensor(self, name: str) -> np.ndarray:
        """One tensor, dequantized: float32, in its row-major shape.

        Raises:
            UserError: no such tensor, or a type that cannot be dequantized.
        """
        import gguf
        import numpy as np

        info = self.tensors.get(name)
        if info is None:
            raise UserError(f"the GGUF has no tensor {name}", where=str(self.path), fix="use a complete GGUF file")
        kind = gguf.GGMLQuantizationType(info.type)
        raw = np.fromfile(self.path, dtype=np.uint8, count=info.size, offset=info.offset)
        plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}.get(kind)
        if plain is not None:
            return raw.view(plain).astype(np.float32, copy=False).reshape(info.shape)
        try:
            return gguf.quants.dequantize(raw.reshape(*info.shape[:-1], -1), kind).reshape(info.shape)
        except NotImplementedError as error:
            raise UserError(
                f"tensor {name} has type {kind.name}, which cannot be dequantized",
                where=str(self.path),
                fix="use a file in another quantization (Q4_0, Q4_K_M, Q8_0, F16...)",
            ) from error


class _Cursor:
    """Reads values in order and refuses to leave the file."""

    def __init__(self, data: mmap.mmap, path: Path, *, keep: bool) -> None:
        self.data, self.path, self.at, self.end, self.keep = data, path, 0, len(data), keep

    def bad(self, what: str) -> NoReturn:
        raise UserError(
            f"not a usable GGUF: {what}",
            where=str(self.path),
            fix="the file is truncated or damaged: download it again and compare its size and SHA-256",
        )

    def unpack(self, code: str) -> Any:
        size = struct.calcsize("<" + code)
        if self.at + size > self.end:
            self.bad(f"it ends at byte {self.end}, inside its header")
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += size
        return value

    def string(self, limit: int = MAX_STRING) -> str:
        length = self.unpack("Q")
        if length > limit or self.at + length > self.end:
            self.bad(f"a string of {length} bytes at byte {self.at} does not fit")
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.bad(f"a string at byte {self.at - length} is not UTF-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.unpack(_SCALARS[kind])
        if kind == _ARRAY:
            return self.array()
        self.bad(f"unknown value type {kind} at byte {self.at}")

    def array(self) -> list[Any]:
        kind, count = self.unpack("I"), self.unpack("Q")
        if kind == _STRING:
            if count > MAX_ARRAY or self.at + 8 * count > self.end:
                self.bad(f"an array of {count} strings at byte {self.at} does not fit")
            return self.strings(count)
        if kind not in _SCALARS:
            self.bad(f"unknown array type {kind} at byte {self.at}")
        code = _SCALARS[kind]
        size = struct.calcsize("<" + code) * count
        if count > MAX_ARRAY or self.at + size > self.end:
            self.bad(f"an array of {count} values at byte {self.at} does not fit")
        values = list(struct.unpack_from(f"<{count}{code}", self.data, self.at))
        self.at += size
        return values

    def strings(self, count: int) -> list[str]:
        """An array of strings: the bulk of a header, hence the tight loop. Not kept when only checking."""
        unpack, data, end, at = struct.Struct("<Q").unpack_from, self.data, self.end, self.at
        found: list[bytes] = []
        for _ in range(count):
            if at + 8 > end:
                self.bad(f"it ends at byte {end}, inside its header")
            length = unpack(data, at)[0]
            at += 8 + length
            if length > MAX_STRING or at > end:
                self.bad(f"a string of {length} bytes at byte {at - length} does not fit")
            if self.keep:
                found.append(data[at - length : at])
        self.at = at
        try:
            return [raw.decode("utf-8") for raw in found]
        except UnicodeDecodeError:
            self.bad(f"an array of strings before byte {at} is not UTF-8")

    def unique(self, name: str, seen: dict[str, Any], what: str) -> str:
        if name in seen:
            self.bad(f"{what} {name!r} appears twice")
        return name


def check_gguf(path: Path) -> GgufFile:
    """Check a GGUF file's header as `read_gguf` does, without keeping the vocabulary: for use before a load.

    Returns:
        the header; its arrays of strings are empty.

    Raises:
        UserError: as `read_gguf`.
    """
    return _read(Path(path), keep=False)


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header of a GGUF file. No tensor data is read.

    Raises:
        UserError: missing, not a GGUF, truncated, or with counts, lengths or offsets that do not fit the file.
    """
    return _read(Path(path), keep=True)


def _read(path: Path, *, keep: bool) -> GgufFile:
    if not path.is_file():
        raise UserError("no such GGUF file", where=str(path), fix="check the path")
    if path.stat().st_size < 24:
        raise UserError("not a GGUF: the file is too short", where=str(path), fix="download the file again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != MAGIC:
            raise UserError("not a GGUF: the file does not start with the letters GGUF", where=str(path),
                            fix="give a .gguf file, or a Hugging Face directory")  # fmt: skip
        cursor = _Cursor(data, path, keep=keep)
        cursor.at = 4
        version = cursor.unpack("I")
        if version not in VERSIONS:
            swapped = version & 0xFFFF == 0
            raise UserError(
                "big-endian GGUF files are not supported" if swapped else f"GGUF version {version} is not supported",
                where=str(path),
                fix=f"convert the model again with a current llama.cpp (versions {VERSIONS} can be read)",
            )
        tensor_count, field_count = cursor.unpack("Q"), cursor.unpack("Q")
        if tensor_count > MAX_TENSORS or field_count > MAX_FIELDS:
            cursor.bad(f"it claims {tensor_count} tensors and {field_count} fields")
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            key = cursor.unique(cursor.string(MAX_KEY), fields, "the key")
            fields[key] = cursor.value(cursor.unpack("I"))
        if not isinstance(fields.get("general.architecture"), str):
            cursor.bad("it has no general.architecture")
        return GgufFile(path, version, len(data), fields, _tensors(cursor, tensor_count, fields))


def _tensors(cursor: _Cursor, count: int, fields: dict[str, Any]) -> dict[str, TensorInfo]:
    import gguf

    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
        cursor.bad(f"general.alignment is {alignment!r}")
    found: dict[str, tuple[tuple[int, ...], int, int, int]] = {}
    for _ in range(count):
        name = cursor.unique(cursor.string(MAX_KEY), found, "the tensor")
        dims = cursor.unpack("I")
        if not 1 <= dims <= MAX_DIMS:
            cursor.bad(f"tensor {name!r} has {dims} dimensions")
        shape = tuple(cursor.unpack("Q") for _ in range(dims))[::-1]
        kind, offset = cursor.unpack("I"), cursor.unpack("Q")
        try:
            block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            cursor.bad(f"tensor {name!r} has the unknown type {kind}")
        elements = 1
        for extent in shape:
            elements *= extent
        if elements == 0 or elements > 1 << 48 or shape[-1] % block:
            cursor.bad(f"tensor {name!r} has shape {shape}, which its type does not allow")
        if offset % alignment:
            cursor.bad(f"tensor {name!r} is not aligned")
        found[name] = (shape, kind, offset, elements // block * block_bytes)
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    last_end = start
    for name, (shape, kind, offset, size) in sorted(found.items(), key=lambda item: item[1][2]):
        begin = start + offset
        if begin + size > cursor.end:
            cursor.bad(f"tensor {name!r} needs bytes {begin} to {begin + size}, but the file has {cursor.end}")
        if begin < last_end:
            cursor.bad(f"tensor {name!r} overlaps another")
        last_end = begin + size
        tensors[name] = TensorInfo(name, shape, kind, begin, size)
    return tensors
