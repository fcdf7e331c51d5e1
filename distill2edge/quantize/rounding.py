"""Rounding a matrix onto a block grid with each column's error made good by the columns after it.

GPTQ (Frantar 2022, arXiv 2210.17323, algorithm 1): what rounding a column changes in the layer's output is spread over
the columns that are not rounded yet, so that the output on the calibration inputs changes least. A block's scale is
fitted to its columns as they are when their turn comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill2edge.errors import UserError
from distill2edge.quantize import ggml
from distill2edge.quantize.grids import FITTED, GRIDS, checked
from distill2edge.quantize.scales import Held

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DAMPING = 0.01
"""Share of the mean diagonal that is added to it, as in the paper."""


def compensated(weight: Tensor, kind: str, gram: Tensor, damping: float = DAMPING) -> tuple[Tensor, Held]:
    """Weights moved so that their nearest levels are those of GPTQ, and their grid.

    Args:
        weight: [rows, columns] float32, columns a multiple of the grid's block.
        kind: name of a grid whose scales are fitted block by block (`grids.FITTED`).
        gram: [columns, columns], sum or mean of x x^T over calibration inputs.
        damping: share of the mean diagonal added to it.

    Returns:
        moved weights [rows, columns], to store or to train from, and the grid.

    Raises:
        UserError: weights that are not finite, columns that the grid cannot hold, or a gram matrix that is zero or not
            finite.
        ValueError: a K-quant: the scales of 256 columns are packed at once, before the errors of the first are spread.
    """
    return compensate(weight, kind, inverse_factor(gram, damping))


def compensate(weight: Tensor, kind: str, upper: Tensor) -> tuple[Tensor, Held]:
    """`compensated`, given what `inverse_factor` makes of the gram: several types of one matrix share it."""
    import torch

    checked(weight, kind)
    if kind not in FITTED:
        raise ValueError(f"the scales of {kind} cannot be fitted block by block")
    grid = GRIDS[kind]
    size = grid.block
    if weight.shape[1] % size:
        raise UserError(f"rows of {weight.shape[1]} weights don't fit {kind}: its blocks have {size}",
                        fix="choose a type of smaller blocks")  # fmt: skip
    left = weight.float().clone()
    diagonal = upper.diagonal().clone()
    moved = torch.empty_like(left)
    scales, offsets = [], []
    for at in range(0, left.shape[1], size):
        end = at + size
        block = left[:, at:end].clone()
        scale, offset = _fit(block, kind, diagonal[at:end].pow(-2))
        errors = torch.empty_like(block)
        inner = upper[at:end, at:end]
        for column in range(size):
            value = block[:, column : column + 1]
            stored = grid.decode(grid.encode(value, scale, offset), scale, offset)
            moved[:, at + column] = value[:, 0]
            errors[:, column] = (value - stored)[:, 0] / diagonal[at + column]
            block[:, column + 1 :] -= torch.outer(errors[:, column], inner[column, column + 1 :])
        left[:, end:] -= errors @ upper[at:end, end:]
        scales.append(scale)
        offsets.append(offset)
    held = torch.stack([o for o in offsets if o is not None], 1) if grid.affine or grid.zeros else None
    return moved, Held(kind, torch.stack(scales, 1), held, weight.shape[1])


def rounded(weight: np.ndarray, kind: str, importance: np.ndarray | None, gram: Tensor | None) -> np.ndarray:
    """The bytes of a matrix in a GGUF type: compensated where the type's scales are fitted block by block and the
    inputs are known, else by ggml's own search, weighted by importance.

    Args:
        weight: [rows, columns] float32.
        kind: a ggml type.
        importance: [columns] mean squared inputs; None: every weight alike.
        gram: [columns, columns], as for `compensated`; None where there is none.

    Returns:
        [rows, row bytes] uint8.
    """
    import torch

    if not _compensable(kind, gram):
        return ggml.quantize(weight, kind, importance)
    moved, held = to_train(torch.from_numpy(weight), kind, importance, gram)
    return held.gguf(moved)


def to_train(weight: Tensor, kind: str, importance: np.ndarray | None, gram: Tensor | None) -> tuple[Tensor, Held]:
    """What `rounded` stores, as weights to train from: moved where they are compensated, and their grid.

    Args:
        weight: [rows, columns] float32.
        kind: a ggml type with a grid (`grids.GRIDS`).
        importance, gram: as for `rounded`.
    """
    if gram is not None and _compensable(kind, gram):
        return compensated(weight, kind, gram)
    return weight, Held.of_gguf(ggml.quantize(weight.numpy(), kind, importance), kind)


def _compensable(kind: str, gram: Tensor | None) -> bool:
    return gram is not None and kind in FITTED and bool(gram.diagonal().any())


def _fit(block: Tensor, kind: str, costs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scale and offset of blocks [rows, block]: of GGUF types by ggml's own search, which is compiled."""
    if GRIDS[kind].onnx:
        return GRIDS[kind].fit(block, costs)
    held = Held.of_gguf(ggml.quantize(block.numpy(), kind, costs.numpy()), kind)
    return held.scale[:, 0], None if held.offset is None else held.offset[:, 0]


def inverse_factor(gram: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the damped gram's inverse, float32.

    Raises:
        UserError: a gram matrix that is zero or not finite.
    """
    import torch

    matrix = gram.double().clone()
    mean = matrix.diagonal().mean()
    if not bool(torch.isfinite(matrix).all()) or mean <= 0:
        raise UserError("the calibration inputs of a layer are zero or not finite", where="quantize.calibration",
                        fix="give other calibration rows, or set quantize.calibration: none")  # fmt: skip
    matrix.diagonal().add_(damping * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor
