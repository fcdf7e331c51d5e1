"""Whether a GGUF's weights are numbers at all: looked at where they are stored, in the scales of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill2edge.errors import UserError
from distill2edge.gguf.ggml_types import GGML_TYPES, GgmlType
from distill2edge.gguf.reader import GgufFile, TensorInfo

if TYPE_CHECKING:
    import numpy as np

_PIECE = 64 << 20  # bytes in memory at once


def check_finite(file: GgufFile) -> None:
    """Refuse weights that are infinite or undefined: one of them makes every output so. Reads all of the file once.

    Raises:
        UserError: names the tensor.
    """
    for name, info in file.tensors.items():
        if not _finite(file, info):
            raise UserError(
                f"tensor {name} holds infinite or undefined numbers",
                where=str(file.path),
                fix="use another file of this model",
            )


def _finite(file: GgufFile, info: TensorInfo) -> bool:
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType(info.type)
    block = gguf.GGML_QUANT_SIZES[kind][1]
    piece = max(1, _PIECE // block) * block
    for begin in range(0, info.size, piece):
        count = min(piece, info.size - begin)
        raw = np.fromfile(file.path, dtype=np.uint8, count=count, offset=info.offset + begin)
        if not all(np.isfinite(values).all() for values in _numbers(raw, kind.name, block)):
            return False
    return True


def _numbers(raw: np.ndarray, kind: str, block: int) -> list[np.ndarray]:
    """What could be infinite in the bytes of whole blocks."""
    import numpy as np

    known = GGML_TYPES.get(kind, GgmlType(kind))  # of a type that is not listed nothing is known: whole numbers
    if kind == "BF16":
        return [(raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)]
    if known.dtype is not None:
        return [raw.view(known.dtype)]
    blocks = raw.reshape(-1, block)
    return [np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16) for at in known.halves]
