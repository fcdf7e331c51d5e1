"""The types in which files store weights: ggml's (`gguf.ggml_types`), and here those of ONNX files.

Blocks are those of ONNX Runtime's MatMulNBits and GatherBlockQuantized, which pad the last block of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from distill2edge.gguf.ggml_types import BLOCK, GGML_TYPES, Levels, StorageType


@dataclass(frozen=True)
class OnnxType(StorageType):
    """A row of the table.

    Attributes:
        stock: whether it is a scheme of its own; else only a mix uses it.
        recorded_steps: the steps that merges have always compared updates with, where they are not `Levels.steps`.
        pace: how long a product of one token takes, over int4-b32 of the same shape (benchmarks/onnx_kernels.py).
    """

    stock: bool = True
    recorded_steps: int | None = None
    pace: float = 1.0

    @property
    def label(self) -> str:
        """What `export.json` calls it: bits, block and, where they have 16 bits, the scales."""
        if self.levels is None or self.levels.half:
            return self.name
        return f"int{self.levels.bits}-b{self.levels.block}"

    @property
    def weight_bits(self) -> float:
        """As `StorageType.weight_bits`."""
        if self.dtype is not None:
            return int(self.dtype.removeprefix("float"))
        assert self.levels is not None
        return 8 * self.size(1, self.levels.block) / self.levels.block if self.levels.block else self.levels.bits

    def size(self, rows: int, columns: int) -> int:
        """Bytes of a matrix in blocks: codes, scales, zero points; the last block and the last byte of a row padded."""
        assert self.levels is not None
        levels = self.levels
        blocks = -(-columns // levels.block)
        zeros = -(-blocks * levels.bits // 8) if levels.zeros else 0
        return rows * (blocks * (levels.block * levels.bits // 8 + (2 if levels.half else 4)) + zeros)


_8 = tuple(range(-128, 128))

_ROWS = (
    OnnxType("fp32", mantissa=23, dtype="float32"),
    OnnxType("fp16", mantissa=10, dtype="float16"),
    OnnxType("int8", Levels(_8, half=False), recorded_steps=254),
    OnnxType("int4-b32", Levels(tuple(range(-8, 8)), half=False)),
    # By ONNX Runtime's own tool, of classifiers alone: integers with one scale for each output.
    OnnxType("int8-dynamic", Levels(tuple(range(-127, 128)), block=0, half=False)),
    # Scales of 16 bits, which the graph widens when a session loads it.
    *(OnnxType(f"uint4-b{block}-f16", Levels(tuple(range(16)), block, zeros=True), stock=False, pace=pace)
      for block, pace in ((16, 1.28), (BLOCK, 1.03), (64, 0.92), (128, 0.78))),
    *(OnnxType(f"int8-b{block}-f16", Levels(_8, block), stock=False, pace=pace)
      for block, pace in ((64, 0.95), (128, 0.85))),
)  # fmt: skip
ONNX_TYPES: dict[str, OnnxType] = {row.name: row for row in _ROWS}
TYPES: dict[str, StorageType] = {**GGML_TYPES, **ONNX_TYPES}
