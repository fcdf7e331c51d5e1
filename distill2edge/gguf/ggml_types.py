"""The types in which ggml stores weights: each fact of a type in its row, and nowhere else.

Numbers, blocks and bytes are those of the gguf package. Sources of the rest: the `block_*` structs of ggml-common.h for
where scales lie, `dequantize_row_*` in ggml-quants.c for what codes stand for, llama-quant.cpp for the fallbacks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Literal

Precision = Literal["lossless", "eight_bits", "lower"]
BLOCK = 32
LAST_RESORT = "F16"
"""Of a matrix whose rows no block fits, as llama.cpp does."""


@dataclass(frozen=True)
class Levels:
    """What the codes of a block of neighbouring weights stand for: offset + scale * table[code], or, with a zero point,
    (code - zero point) * scale.

    Attributes:
        table: value of each code before scaling, ascending.
        block: weights that share a scale; 0: a whole row.
        group: blocks whose scales are packed together, so that none is picked alone.
        affine: an offset is stored too.
        zeros: a zero point is stored too: the code that stands for 0, a whole number in the table.
        half: scales and offsets are stored in 16 bits.
    """

    table: tuple[int, ...]
    block: int = BLOCK
    group: int = 1
    affine: bool = False
    zeros: bool = False
    half: bool = True

    @property
    def multiple(self) -> int:
        """Weights that are stored together."""
        return self.block * self.group

    @property
    def bits(self) -> int:
        """Of a code."""
        return (len(self.table) - 1).bit_length()

    @property
    def uniform(self) -> bool:
        """Neighbouring levels are one apart."""
        return self.table[-1] - self.table[0] == len(self.table) - 1

    @property
    def steps(self) -> int:
        """Steps across a block: from its least weight to its largest where an offset is stored, else from -absmax to
        absmax. Of levels that are not uniform as many as there are: the mean step."""
        if self.affine or self.zeros:
            return self.table[-1]
        return -2 * self.table[0] if self.uniform else len(self.table)


@dataclass(frozen=True)
class StorageType(ABC):
    """How a file stores the weights of a matrix: as numbers (`mantissa`, `dtype`) or in blocks (`levels`); neither is
    known of types that are read alone.

    Attributes:
        mantissa: bits of a number's mantissa.
        dtype: torch's name of a number's type.
    """

    name: str
    levels: Levels | None = None
    mantissa: int | None = None
    dtype: str | None = None

    @property
    def precision(self) -> Precision:
        """How closely a file of this type must follow the model it is made of."""
        if self.mantissa is not None:
            return "lossless"
        return "eight_bits" if self.levels is not None and self.levels.bits == 8 else "lower"

    @property
    @abstractmethod
    def weight_bits(self) -> float:
        """Bits of a weight, its share of the scales included."""

    @property
    def packs(self) -> bool:
        """Whether its bytes are written here from codes and scales, so that a model can be trained on its grid."""
        return self.levels is not None and self.levels.block > 0


@dataclass(frozen=True)
class GgmlType(StorageType):
    """A row of the table.

    Attributes:
        stock: llama.cpp's mixtures that store most matrices so, the type itself among them: the schemes.
        fallback: what llama.cpp takes where a row is no multiple of the block.
        halves: bytes of a block where 16-bit numbers lie. (Whole numbers cannot be NaN.)
        header: where in a super-block of packed scales those lie, of types whose bytes are written here.
    """

    stock: tuple[str, ...] = ()
    fallback: str | None = None
    halves: tuple[int, ...] = ()
    header: slice | None = None

    @property
    def number(self) -> int:
        """In `enum ggml_type`."""
        import gguf

        return int(gguf.GGMLQuantizationType[self.name].value)

    @property
    def block(self) -> int:
        """Weights of one block: what a row must be a multiple of."""
        return _sizes(self.name)[0]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, scales included."""
        return _sizes(self.name)[1]

    @property
    def weight_bits(self) -> float:
        """As `StorageType.weight_bits`."""
        return 8 * self.block_bytes / self.block

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row.

        Raises:
            ValueError: the row is not a multiple of the block.
        """
        if columns % self.block:
            raise ValueError(f"{columns} columns are no multiple of {self.name}'s block of {self.block}")
        return columns // self.block * self.block_bytes

    @property
    def packs(self) -> bool:
        """As `StorageType.packs`."""
        alone = self.levels is not None and self.levels.group == 1 and bool(self.halves)  # 16-bit scales, then codes
        return alone or self.header is not None


_4, _5 = tuple(range(16)), tuple(range(32))
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

_ROWS = (
    # From small to large, those that are written here.
    GgmlType("Q2_K", Levels((0, 1, 2, 3), 16, 16, affine=True), stock=("Q2_K",), fallback="Q4_0", halves=(80, 82)),
    GgmlType("Q3_K", Levels(tuple(range(-4, 4)), 16, 16), stock=("Q3_K_S", "Q3_K_M", "Q3_K_L"), fallback="Q4_0",
             halves=(108,)),
    GgmlType("IQ4_XS", Levels(_IQ4, group=8), stock=("IQ4_XS",), fallback="IQ4_NL", halves=(0,)),
    GgmlType("Q4_0", Levels(tuple(range(-8, 8))), stock=("Q4_0",), fallback=LAST_RESORT, halves=(0,)),
    GgmlType("IQ4_NL", Levels(_IQ4), stock=("IQ4_NL",), fallback=LAST_RESORT, halves=(0,)),
    GgmlType("Q4_K", Levels(_4, group=8, affine=True), stock=("Q4_K_S", "Q4_K_M"), fallback="Q5_0", halves=(0, 2),
             header=slice(0, 16)),  # d, dmin, and 12 bytes of scales and minima
    GgmlType("Q4_1", Levels(_4, affine=True), stock=("Q4_1",), fallback=LAST_RESORT, halves=(0, 2)),
    GgmlType("Q5_0", Levels(tuple(range(-16, 16))), stock=("Q5_0",), fallback=LAST_RESORT, halves=(0,)),
    GgmlType("Q5_K", Levels(_5, group=8, affine=True), stock=("Q5_K_S", "Q5_K_M"), fallback="Q5_1", halves=(0, 2),
             header=slice(0, 16)),
    GgmlType("Q5_1", Levels(_5, affine=True), stock=("Q5_1",), fallback=LAST_RESORT, halves=(0, 2)),
    GgmlType("Q6_K", Levels(tuple(range(-32, 32)), 16, 16), stock=("Q6_K",), fallback="Q8_0", halves=(208,),
             header=slice(192, 210)),  # 16 scales, and d
    GgmlType("Q8_0", Levels(tuple(range(-127, 128))), stock=("Q8_0",), fallback=LAST_RESORT, halves=(0,)),
    GgmlType("F16", mantissa=10, dtype="float16", stock=("F16",)),
    GgmlType("BF16", mantissa=7, dtype="bfloat16", stock=("BF16",)),
    GgmlType("F32", mantissa=23, dtype="float32", stock=("F32",)),
    # Those that files from elsewhere may hold.
    GgmlType("F64", mantissa=52, dtype="float64"),
    GgmlType("Q8_1", halves=(0, 2)),
    GgmlType("IQ2_XXS", halves=(0,)),
    GgmlType("IQ2_XS", halves=(0,)),
    GgmlType("IQ2_S", halves=(0,)),
    GgmlType("IQ3_XXS", halves=(0,)),
    GgmlType("IQ3_S", halves=(0,)),
    GgmlType("IQ1_S", halves=(0,)),
    GgmlType("TQ1_0", halves=(52,)),
    GgmlType("TQ2_0", halves=(64,)),
)  # fmt: skip
GGML_TYPES: dict[str, GgmlType] = {row.name: row for row in _ROWS}


def fitting(kind: str, columns: int) -> str:
    """The type in which llama.cpp stores rows of so many weights where `kind` is wanted."""
    while columns % GGML_TYPES[kind].block:
        fallback = GGML_TYPES[kind].fallback
        assert fallback is not None
        kind = fallback
    return kind


def falls_back_to(kind: str) -> str:
    """In words, the types that are replaced by `kind` where they don't fit; empty where there are none."""
    if kind == LAST_RESORT:
        return "any"
    *others, last = [row.name for row in _ROWS if row.fallback == kind] or [""]
    return f"{', '.join(others)} or {last}" if others else last


def file_type(name: str) -> int:
    """llama.cpp's number (`enum llama_ftype`) of a stock scheme, or of a file in which most bytes are of one type.

    Raises:
        KeyError: llama.cpp has none.
    """
    import gguf

    known = gguf.LlamaFileType.__members__
    for member in (f"ALL_{name}", f"MOSTLY_{name}", f"MOSTLY_{name}_M"):
        if member in known:
            return int(known[member].value)
    raise KeyError(name)


@cache
def _sizes(name: str) -> tuple[int, int]:
    import gguf

    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    return int(weights), int(size)
