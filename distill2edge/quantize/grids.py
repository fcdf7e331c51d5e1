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
from distill2edge.gguf.ggml_types import Levels
from distill2edge.quantize import ggml
from distill2edge.quantize.types import TYPES, OnnxType

if TYPE_CHECKING:
    from torch import Tensor

_STEPS = 16
_ZERO_STEPS = 12


@dataclass(frozen=True)
class Grid(Levels):
    """What a type makes of blocks of weights.

    Attributes:
        name: of the type.
        onnx: of ONNX Runtime, which pads the last block; else of a GGUF.
    """

    name: str = ""
    onnx: bool = False

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

    def stored_scale(self, scale: Tensor) -> Tensor:
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
        best = self.stored_scale(peak / self.table[0])
        lowest = self._error(block, weight, best, None)
        for side in (self.table[0], self.table[-1]):
            for step in range(-_STEPS // 2, _STEPS // 2 + 1):
                trial = peak / (side + step * abs(side) * 0.025)
                values = self.values(self.encode(block, trial, None))
                refit = self.stored_scale((weight * block * values).sum(-1) / (weight * values * values).sum(-1))
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
        best, offset = self.stored_scale(span / top), self.stored_scale(low)
        lowest = self._error(block, weight, best, offset)
        total = weight.sum(-1)
        mean_x = (weight * block).sum(-1) / total
        for step in range(_STEPS + 1):
            trial = span / (top - 0.2 * top / _STEPS * (step - 2))
            values = self.values(self.encode(block, trial, low))
            mean_q = (weight * values).sum(-1) / total
            centred = values - mean_q[..., None]
            slope = (weight * centred * (block - mean_x[..., None])).sum(-1) / (weight * centred * centred).sum(-1)
            slope = self.stored_scale(torch.where(slope.isfinite(), slope, best))
            start = self.stored_scale(mean_x - slope * mean_q)
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
        scale = self.stored_scale((high - low) / top)
        zero = (-low / torch.where(scale == 0, torch.ones_like(scale), scale)).round().clamp(0, top)
        lowest = self._error(block, weight, scale, zero)
        best = scale
        for step in range(-2, _ZERO_STEPS - 2):
            trial = (high - low) / top * (1 - step * 0.03)
            centre = (top - (high + low) / torch.where(trial == 0, torch.ones_like(trial), trial)) / 2
            for shift in (-0.5, 0.5) if step >= 0 else (0.0,):
                there = (centre + shift).round().clamp(0, top)
                values = self.encode(block, trial, there) - there[..., None]
                refit = self.stored_scale((weight * block * values).sum(-1) / (weight * values * values).sum(-1))
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
    name: Grid(**vars(each.levels), name=name, onnx=isinstance(each, OnnxType))
    for name, each in TYPES.items()
    if each.packs
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
        raise ValueError(f"{kind} has no quantizer but TensorGrid.fitted")
    checked(weight, kind)
    rows, columns = weight.shape
    if kind not in FITTED:
        data = ggml.quantize(weight.float().numpy(), kind)
        return torch.from_numpy(ggml.dequantize(data, kind, columns))
    grid = GRIDS[kind]
    pad = -columns % grid.block
    blocks = torch.nn.functional.pad(weight.float(), (0, pad)).reshape(rows, -1, grid.block)
    signed = not grid.onnx and grid.bits == 8
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
        scale = peak.abs() / grid.table[-1] if signed else peak / grid.table[0]
        offset, moved, half = None, blocks.double(), 0.5 - grid.table[0]
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)[..., None]
    if signed:
        x = (blocks * inverse).double()
        codes = torch.trunc(x + torch.copysign(torch.full_like(x, 0.5), x)).float() - grid.table[0]  # half from zero
    elif grid.onnx:
        codes = ((blocks * inverse - grid.table[0]).double() + 0.5).trunc().float()
    else:
        codes = (moved * inverse.double() + half).float().trunc()
    # 0 x 1 / a denormal scale; C turns NaN into code 0, and the scale is stored as 0 or as what it is.
    codes = codes.nan_to_num(0.0).clamp_(0, len(grid.table) - 1)
    stored = grid.decode(codes, grid.stored_scale(scale), None if offset is None else grid.stored_scale(offset))
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
