"""Block grids as pure functions: what a weight becomes when a GGUF or an ONNX file stores it.

A block of neighbouring weights shares a scale (and an offset, in the affine kinds); code c stands for
offset + scale * table[c], and in the kinds with a zero point z for (c - z) * scale. `plain` picks the scales of a block
as the target's own quantizer does, to the bit; `fit` searches them among multiples of the one that just covers the
block, each followed by a weighted least-squares fit (the approach of llama.cpp's importance-aware quantizers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill2edge.errors import UserError
from distill2edge.quantize import ggml

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
_STEPS = 16
_ZERO_STEPS = 12
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Grid:
    """One kind of block.

    Attributes:
        table: value of each code before scaling, ascending.
        half: scales and offsets are stored in 16 bits.
        affine: an offset is stored too.
        zeros: a zero point is stored too: the code that stands for 0, a whole number in the table.
        onnx: of ONNX Runtime's MatMulNBits and GatherBlockQuantized, which pad the last block; else of a GGUF.
        block: weights that share a scale.
        group: blocks whose scales are packed together, so that none is picked alone: ggml picks them.
        uniform: neighbouring levels are one apart.
    """

    name: str
    table: tuple[int, ...]
    half: bool = True
    affine: bool = False
    zeros: bool = False
    onnx: bool = False
    block: int = BLOCK
    group: int = 1

    @property
    def multiple(self) -> int:
        """What the columns of a matrix in a GGUF must be a multiple of."""
        return self.block * self.group

    @property
    def bits(self) -> int:
        """Of a code."""
        return (len(self.table) - 1).bit_length()

    @property
    def uniform(self) -> bool:
        return self.table[-1] - self.table[0] == len(self.table) - 1

    def nearest(self, x: Tensor) -> Tensor:
        """Index of the level nearest to each unscaled value, in `x`'s dtype where the levels are uniform, else int."""
        import torch

        if self.uniform:
            return x.round().clamp_(self.table[0], self.table[-1]).sub_(self.table[0])
        levels = torch.tensor(self.table, dtype=x.dtype, device=x.device)
        return torch.bucketize(x, (levels[1:] + levels[:-1]) / 2, out_int32=True)

    def values(self, codes: Tensor) -> Tensor:
        """Unscaled values of codes, float32."""
        import torch

        if self.uniform:
            return codes.float() + self.table[0]
        return torch.tensor(self.table, dtype=torch.float32, device=codes.device)[codes.int()]

    def stored(self, scale: Tensor) -> Tensor:
        """What a scale becomes in the file, as float32."""
        return scale.half().float() if self.half else scale

    def encode(self, blocks: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
        """Codes of the levels nearest to blocks [..., block], given scale and offset, or zero point, [...]."""
        import torch

        # Divided, not multiplied by 1 / scale, which overflows where the scale is denormal. Scale 0 has one level.
        step = torch.where(scale == 0, torch.full_like(scale, torch.inf), scale)
        if self.zeros:
            assert offset is not None
            return (blocks / step[..., None]).round_().add_(offset[..., None]).clamp_(0, self.table[-1])
        x = blocks if offset is None else blocks - offset[..., None]
        return self.nearest(x / step[..., None])

    def decode(self, codes: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
        """The weights that codes stand for, float32."""
        if self.zeros:
            assert offset is not None
            return (codes.float() - offset[..., None]) * scale[..., None]
        found = self.values(codes) * scale[..., None]
        return found if offset is None else found + offset[..., None]

    def fit(self, blocks: Tensor, importance: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and offset of each block, as the file holds them, for the least weighted squared error found.

        Args:
            blocks: [n, block] float32.
            importance: broadcasts to [n, block], positive: what a squared error of each weight costs.

        Returns:
            scale [n] and offset or zero point [n] (None where the kind has neither); a block of zeros has scale 0.

        Raises:
            ValueError: a kind whose blocks have no scales of their own (`group`).
        """
        if self.group > 1:
            raise ValueError(f"{self.name} packs the scales of {self.group} blocks together: none is fitted alone")
        if self.zeros:
            return self._fit_zeros(blocks, importance)
        return self._fit_affine(blocks, importance) if self.affine else (self._fit_symmetric(blocks, importance), None)

    def _fit_symmetric(self, block: Tensor, importance: Tensor) -> Tensor:
        import torch

        weight = importance.expand_as(block)
        at = block.abs().argmax(-1, keepdim=True)
        peak = block.gather(-1, at)[..., 0]  # with its sign: the table's longer side takes it
        best = self.stored(peak / self.table[0])
        lowest = self._error(block, weight, best, None)
        for side in (self.table[0], self.table[-1]):
            for step in range(-_STEPS // 2, _STEPS // 2 + 1):
                trial = peak / (side + step * abs(side) * 0.025)
                values = self.values(self.encode(block, trial, None))
                refit = self.stored((weight * block * values).sum(-1) / (weight * values * values).sum(-1))
                refit = torch.where(refit.isfinite(), refit, best)
                error = self._error(block, weight, refit, None)
                better = error < lowest
                best, lowest = torch.where(better, refit, best), torch.where(better, error, lowest)
        return best

    def _fit_affine(self, block: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        weight = importance.expand_as(block)
        low, high = block.amin(-1), block.amax(-1)
        span, top = high - low, self.table[-1]
        best, offset = self.stored(span / top), self.stored(low)
        lowest = self._error(block, weight, best, offset)
        total = weight.sum(-1)
        mean_x = (weight * block).sum(-1) / total
        for step in range(_STEPS + 1):
            trial = span / (top - 0.2 * top / _STEPS * (step - 2))
            values = self.values(self.encode(block, trial, low))
            mean_q = (weight * values).sum(-1) / total
            centred = values - mean_q[..., None]
            slope = (weight * centred * (block - mean_x[..., None])).sum(-1) / (weight * centred * centred).sum(-1)
            slope = self.stored(torch.where(slope.isfinite(), slope, best))
            start = self.stored(mean_x - slope * mean_q)
            error = self._error(block, weight, slope, start)
            better = error < lowest
            best, offset = torch.where(better, slope, best), torch.where(better, start, offset)
            lowest = torch.where(better, error, lowest)
        return best, offset

    def _fit_zeros(self, block: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        weight = importance.expand_as(block)
        # 0 is a level, so the range that is covered has it inside.
        low, high = block.amin(-1).clamp_max(0), block.amax(-1).clamp_min(0)
        top = self.table[-1]
        scale = self.stored((high - low) / top)
        zero = (-low / torch.where(scale == 0, torch.ones_like(scale), scale)).round().clamp(0, top)
        lowest = self._error(block, weight, scale, zero)
        best = scale
        for step in range(-2, _ZERO_STEPS - 2):
            trial = (high - low) / top * (1 - step * 0.03)
            centre = (top - (high + low) / torch.where(trial == 0, torch.ones_like(trial), trial)) / 2
            for shift in (-0.5, 0.5) if step >= 0 else (0.0,):
                there = (centre + shift).round().clamp(0, top)
                values = self.encode(block, trial, there) - there[..., None]
                refit = self.stored((weight * block * values).sum(-1) / (weight * values * values).sum(-1))
                refit = torch.where(refit.isfinite(), refit, scale)
                error = self._error(block, weight, refit, there)
                better = error < lowest
                best, zero = torch.where(better, refit, best), torch.where(better, there, zero)
                lowest = torch.where(better, error, lowest)
        return best, zero

    def _error(self, block: Tensor, weight: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
        gap = self.decode(self.encode(block, scale, offset), scale, offset) - block
        return (weight * gap * gap).sum(-1)


GRIDS = {
    "Q4_0": Grid("Q4_0", tuple(range(-8, 8))),
    "IQ4_NL": Grid("IQ4_NL", _IQ4),
    "Q4_1": Grid("Q4_1", tuple(range(16)), affine=True),
    "Q5_0": Grid("Q5_0", tuple(range(-16, 16))),
    "Q5_1": Grid("Q5_1", tuple(range(32)), affine=True),
    "Q8_0": Grid("Q8_0", tuple(range(-127, 128))),
    "Q4_K": Grid("Q4_K", tuple(range(16)), affine=True, group=8),
    "Q5_K": Grid("Q5_K", tuple(range(32)), affine=True, group=8),
    "Q6_K": Grid("Q6_K", tuple(range(-32, 32)), block=16, group=16),
    "int4-b32": Grid("int4-b32", tuple(range(-8, 8)), half=False, onnx=True),
    "int8": Grid("int8", tuple(range(-128, 128)), half=False, onnx=True),
}
GRIDS |= {  # scales in 16 bits, which the graph widens when a session loads it
    f"uint4-b{block}-f16": Grid(f"uint4-b{block}-f16", tuple(range(16)), zeros=True, onnx=True, block=block)
    for block in (16, 32, 64, 128)
}
GRIDS |= {
    f"int8-b{block}-f16": Grid(f"int8-b{block}-f16", tuple(range(-128, 128)), onnx=True, block=block)
    for block in (64, 128)
}
FITTED = frozenset(name for name, grid in GRIDS.items() if grid.group == 1)
"""Kinds whose scales are fitted block by block."""


def plain(weight: Tensor, kind: str) -> Tensor:
    """What the target's own quantizer stores of a matrix, without calibration; to the bit.

    Sources: ggml's reference quantizers (ggml-quants.c) for Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, and ONNX Runtime's block
    quantizer (mlas/lib/q4_dq.cpp) for int4-b32 and int8. ggml multiplies and adds in one rounding, hence float64. The
    K-quants' search is not written anew: ggml's own runs.

    Args:
        weight: [rows, columns] float32, finite; columns a multiple of 32, of 256 for K-quants; the ONNX kinds pad.

    Returns:
        [rows, columns] float32.

    Raises:
        UserError: weights that are not finite, or columns that the type cannot hold.
        ValueError: a kind that no stock quantizer writes.
    """
    import torch

    if GRIDS[kind].onnx and GRIDS[kind].half:
        raise ValueError(f"{kind} has no quantizer but Held.fitted")
    checked(weight, kind)
    rows, columns = weight.shape
    if kind not in FITTED:
        data = ggml.quantize(weight.float().numpy(), kind)
        return torch.from_numpy(ggml.dequantize(data, kind, columns))
    pad = -columns % BLOCK
    blocks = torch.nn.functional.pad(weight.float(), (0, pad)).reshape(rows, -1, BLOCK)
    grid = GRIDS[kind]
    if grid.affine:
        low, high = blocks.amin(-1), blocks.amax(-1)
        scale = (high - low) / grid.table[-1]
        offset: Tensor | None = low
        moved = (blocks - low[..., None]).double()
        half = 0.5
    else:
        at = blocks.abs().argmax(-1, keepdim=True)
        peak = blocks.gather(-1, at)[..., 0]
        if grid.onnx:  # of two alike, ONNX Runtime takes the negative one, ggml the first
            low, high = blocks.amin(-1), blocks.amax(-1)
            peak = torch.where(high.abs() > low.abs(), high, low)
        scale = peak.abs() / 127 if kind == "Q8_0" else peak / grid.table[0]
        offset, moved, half = None, blocks.double(), 0.5 - grid.table[0]
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)[..., None]
    if kind == "Q8_0":
        x = (blocks * inverse).double()
        codes = torch.trunc(x + torch.copysign(torch.full_like(x, 0.5), x)).float() - grid.table[0]  # half from zero
    elif grid.onnx:
        codes = ((blocks * inverse - grid.table[0]).double() + 0.5).trunc().float()
    else:
        codes = (moved * inverse.double() + half).float().trunc()
    # 0 x 1 / a denormal scale; C turns NaN into code 0, and the scale is stored as 0 or as what it is.
    codes = codes.nan_to_num(0.0).clamp_(0, len(grid.table) - 1)
    stored = grid.decode(codes, grid.stored(scale), None if offset is None else grid.stored(offset))
    return stored.reshape(rows, -1)[:, :columns].contiguous()


def checked(weight: Tensor, kind: str) -> None:
    """Refuse what no file can hold.

    Raises:
        UserError: NaN or Inf, or a row that is no multiple of the block of a GGUF type.
    """
    import torch

    if not bool(torch.isfinite(weight).all()):
        raise UserError("weights that are NaN or Inf cannot be quantized", fix="train again with a smaller rate")
    multiple = GRIDS[kind].multiple
    if not GRIDS[kind].onnx and weight.shape[1] % multiple:
        raise UserError(f"rows of {weight.shape[1]} weights don't fit {kind}: its blocks have {multiple}",
                        fix="choose an onnx: scheme or F16")  # fmt: skip
