"""Whether a GGUF's weights are numbers at all: looked at where they are stored, in the scales of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill2edge.errors import UserError
from distill2edge.gguf.reader import GgufFile, TensorInfo

if TYPE_CHECKING:
    import numpy as np

_PIECE = 64 << 20  # bytes in memory at once
# Of ggml's block types (ggml-common.h): where in a block the half-precision scales lie. Whole numbers cannot be NaN.
_SCALES: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q8_1": (0, 2), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "IQ2_XXS": (0,),
    "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip


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

    plain = {"F64": np.float64, "F32": np.float32, "F16": np.float16}.get(kind)
    if plain is not None:
        return [raw.view(plain)]
    if kind == "BF16":
        return [(raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)]
    blocks = raw.reshape(-1, block)
    return [np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16) for at in _SCALES.get(kind, ())]
