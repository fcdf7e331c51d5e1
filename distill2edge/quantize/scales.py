"""The scales of one matrix, picked once: a weight in training moves between the levels of one grid, and the file gets
these very scales."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distill2edge.errors import UserError
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.quantize import ggml, k_quants
from distill2edge.quantize.grids import FITTED, GRIDS, Grid, checked

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class TensorGrid:
    """The scales of one matrix, picked once.

    Attributes:
        kind: name of a grid.
        scale: [rows, blocks] float32, as the file holds them.
        offset: the same, or None; the zero points of a kind that has them.
        columns: weights of a row; the last block may be longer.
        header: [rows, super-blocks, bytes] uint8, of a K-quant: the bytes that scale and offset were read from.

    Raises:
        UserError: weights so large that the file's 16-bit scales overflow.
        ValueError: a K-quant without its header; scales alone cannot be written.
    """

    kind: str
    scale: torch.Tensor
    offset: torch.Tensor | None
    columns: int
    header: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Check the scales."""
        import torch

        if (self.kind in k_quants.KINDS) != (self.header is not None):
            raise ValueError(f"{self.kind} {'lacks a' if self.header is None else 'has no'} header")
        for part in (self.scale, self.offset):
            if part is not None and not bool(torch.isfinite(part).all()):
                raise UserError(f"weights beyond the 16-bit scales of {self.kind}",
                                fix="train again with a smaller rate, or choose an onnx: scheme")  # fmt: skip

    @property
    def levels(self) -> Grid:
        """The levels."""
        return GRIDS[self.kind]

    @classmethod
    def fitted(cls, weight: Tensor, kind: str, importance: Tensor | None = None) -> TensorGrid:
        """Scales of the least weighted squared error; of a K-quant those that ggml's own search finds.

        Args:
            weight: [rows, columns] float32.
            importance: [columns] or [rows, columns], positive; None: every weight alike.

        Raises:
            UserError: weights that are not finite, or rows that the type cannot hold.
        """
        import torch

        checked(weight, kind)
        if kind not in FITTED:
            given = None if importance is None else importance.float().numpy()
            return cls.of_gguf(ggml.quantize(weight.float().numpy(), kind, given), kind)
        columns, size = weight.shape[1], GRIDS[kind].block
        pad = -columns % size
        matters = torch.ones(1, columns) if importance is None else importance.reshape(-1, columns).float()
        scales, offsets = [], []
        for at in range(0, columns + pad, size):  # block by block: a search holds few copies at once
            block = torch.nn.functional.pad(weight[:, at : at + size].float(), (0, max(0, at + size - columns)))
            costs = torch.nn.functional.pad(matters[:, at : at + size], (0, max(0, at + size - columns)))
            scale, offset = GRIDS[kind].fit(block, costs)
            scales.append(scale)
            offsets.append(offset)
        second = GRIDS[kind].affine or GRIDS[kind].zeros
        return cls(kind, torch.stack(scales, 1), torch.stack(offsets, 1) if second else None, columns)  # type: ignore[arg-type]

    @classmethod
    def of_gguf(cls, data: np.ndarray, kind: str) -> TensorGrid:
        """The scales in the bytes [rows, bytes] of a matrix in a GGUF."""
        import torch

        levels = GRIDS[kind]
        blocks = np.ascontiguousarray(data).reshape(len(data), -1, GGML_TYPES[kind].row_bytes(levels.multiple))
        columns = blocks.shape[1] * levels.multiple
        if kind in k_quants.KINDS:
            header = k_quants.header(blocks, kind)
            scale, offset = k_quants.scales(header, kind)
            second = None if offset is None else torch.from_numpy(offset)
            return cls(kind, torch.from_numpy(scale), second, columns, torch.from_numpy(header))
        second = torch.from_numpy(_floats(blocks[..., 2:4])) if levels.affine else None
        return cls(kind, torch.from_numpy(_floats(blocks[..., :2])), second, columns)

    @classmethod
    def joined(cls, parts: Sequence[TensorGrid]) -> TensorGrid:
        """The scales of blocks that stand side by side in each row."""
        import torch

        def side_by_side(name: str) -> Tensor | None:
            found = [getattr(part, name) for part in parts]
            return None if found[0] is None else torch.cat(found, 1)

        scale = side_by_side("scale")
        assert scale is not None
        columns = sum(part.columns for part in parts)
        return cls(parts[0].kind, scale, side_by_side("offset"), columns, side_by_side("header"))

    def to(self, device: torch.device) -> TensorGrid:
        """The same scales on another device, or itself if they are there already. The header stays where it is."""
        if self.scale.device == device:
            return self
        moved = copy.copy(self)  # checked already
        moved.scale, moved.offset = self.scale.to(device), None if self.offset is None else self.offset.to(device)
        return moved

    def codes(self, weight: Tensor) -> Tensor:
        """[rows, blocks, block], the nearest levels."""
        import torch

        rows, columns = weight.shape
        size = self.levels.block
        padded = torch.nn.functional.pad(weight, (0, -columns % size)) if columns % size else weight
        return self.levels.encode(padded.reshape(rows, -1, size), self.scale, self.offset)

    def fake_quantized(self, weight: Tensor) -> Tensor:
        """What the file holds of a matrix on this grid, [rows, columns] float32."""
        found = self.levels.decode(self.codes(weight), self.scale, self.offset)
        return found.reshape(len(weight), -1)[:, : self.columns]

    def gguf(self, weight: Tensor) -> np.ndarray:
        """The bytes of the matrix in a GGUF, [rows, bytes] uint8.

        Layout per block (ggml-common.h): scale, offset if any, the fifth bits if any, then code i in the low nibble
        of byte i and code i + 16 in the high one; Q8_0 has one signed byte per code. K-quants: `k_quants.pack`.
        """
        codes = self.codes(weight).numpy().astype(np.uint8)
        if self.header is not None:
            header = self.header.numpy()
            packed = k_quants.pack(header, codes.reshape(*header.shape[:2], k_quants.SUPER), self.kind)
            return packed.reshape(len(codes), -1)
        parts = [_half_bytes(self.scale.numpy())]
        if self.offset is not None:
            parts.append(_half_bytes(self.offset.numpy()))
        if self.levels.bits == 8:
            parts.append((codes.astype(np.int16) + self.levels.table[0]).astype(np.int8).view(np.uint8))
        else:
            if self.levels.bits == 5:
                parts.append(np.packbits(codes >> 4, axis=-1, bitorder="little"))
            low = codes & 0xF
            parts.append(low[..., :16] | (low[..., 16:] << 4))
        return np.concatenate(parts, axis=-1).reshape(len(codes), -1)

    def onnx(self, weight: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """What MatMulNBits and GatherBlockQuantized read; of 4-bit codes two neighbours share a byte, the first low.

        Returns:
            packed codes [rows, blocks, bytes] uint8, scales [rows, blocks] as stored (float16 or float32), and packed
            zero points [rows, bytes] uint8, or None where 2^(bits - 1) stands for 0.
        """
        codes = self.codes(weight).numpy().astype(np.uint8)
        scales = self.scale.numpy().astype(np.float16 if self.levels.half else np.float32)
        zeros = None
        if self.levels.zeros:
            assert self.offset is not None
            zeros = self._nibbles(self.offset.numpy().astype(np.uint8))
        return self._nibbles(codes), np.ascontiguousarray(scales), zeros

    def _nibbles(self, codes: np.ndarray) -> np.ndarray:
        if self.levels.bits == 8:
            return np.ascontiguousarray(codes)
        if codes.shape[-1] % 2:
            codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
        return np.ascontiguousarray(codes[..., ::2] | (codes[..., 1::2] << 4))


def _floats(pair: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pair).view(np.float16)[..., 0].astype(np.float32)


def _half_bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.astype(np.float16)[..., None]).view(np.uint8)
