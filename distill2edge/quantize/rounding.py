"""Rounding a matrix onto a block grid with each column's error made good by the columns after it.

GPTQ (Frantar 2022, arXiv 2210.17323, algorithm 1): what rounding a column changes in the layer's output is spread over
the columns that are not rounded yet, so that the output on the calibration inputs changes least. Columns are taken by
falling mean square of their inputs, so that those that matter most are rounded before errors have gathered; their
blocks' scales are fitted beforehand, so that the order does not show in the file. (The paper's own code calls these
`act_order` and `static_groups`; docs/log.md has what they bring.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill2edge.errors import UserError
from distill2edge.quantize import ggml
from distill2edge.quantize.grids import GRIDS, checked
from distill2edge.quantize.scales import Held

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DAMPING = 0.01
"""Share of the mean diagonal that is added to it, as in the paper."""
_CHUNK = 64
"""Columns whose errors reach the columns behind them in one product."""


@dataclass(frozen=True)
class Inverse:
    """What of a layer's inputs compensation needs; types of one matrix share it.

    Attributes:
        order: [columns], by falling mean square of the inputs.
        upper: [columns, columns], upper Cholesky factor of the damped gram's inverse, in that order.
        importance: [columns], the damped diagonal, in the matrix's own order.
    """

    order: Tensor
    upper: Tensor
    importance: Tensor


def compensated(weight: Tensor, kind: str, gram: Tensor, damping: float = DAMPING) -> tuple[Tensor, Held]:
    """Weights moved so that their nearest levels are those of GPTQ, and their grid.

    Args:
        weight: [rows, columns] float32, columns a multiple of the grid's block.
        kind: name of a grid.
        gram: [columns, columns], sum or mean of x x^T over calibration inputs.
        damping: share of the mean diagonal added to it.

    Returns:
        moved weights [rows, columns], to store or to train from, and the grid.

    Raises:
        UserError: weights that are not finite, columns that the grid cannot hold, or a gram matrix that is zero or not
            finite.
    """
    return compensate(weight, kind, inverse(gram, damping))


def compensate(weight: Tensor, kind: str, inputs: Inverse) -> tuple[Tensor, Held]:
    """`compensated`, given what `inverse` makes of the gram."""
    import torch

    checked(weight, kind)
    grid, columns = GRIDS[kind], weight.shape[1]
    if columns % grid.block:
        raise UserError(f"rows of {columns} weights don't fit {kind}: its blocks have {grid.block}",
                        fix="choose a type of smaller blocks")  # fmt: skip
    held = _fitted(weight, kind, inputs.importance)
    order, upper = inputs.order, inputs.upper
    left = weight.float()[:, order]
    moved = torch.empty_like(left)
    diagonal, blocks = upper.diagonal(), (order // grid.block).tolist()
    for at in range(0, columns, _CHUNK):
        end = min(at + _CHUNK, columns)
        chunk = left[:, at:end].clone()
        errors = torch.empty_like(chunk)
        for place in range(end - at):
            value, block = chunk[:, place : place + 1], blocks[at + place]
            scale, offset = held.scale[:, block], None if held.offset is None else held.offset[:, block]
            stored = grid.decode(grid.encode(value, scale, offset), scale, offset)
            moved[:, at + place] = value[:, 0]
            errors[:, place] = (value - stored)[:, 0] / diagonal[at + place]
            chunk[:, place + 1 :] -= torch.outer(errors[:, place], upper[at + place, at + place + 1 : end])
        left[:, end:] -= errors @ upper[at:end, end:]
    found = torch.empty_like(moved)
    found[:, order] = moved
    return found, held


def rounded(weight: np.ndarray, kind: str, importance: np.ndarray | None, gram: Tensor | None) -> np.ndarray:
    """The bytes of a matrix in a GGUF type: compensated where the type has a grid here and the inputs are known, else
    by ggml's own search, weighted by importance.

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
    return gram is not None and kind in GRIDS and bool(gram.diagonal().any())


def _fitted(weight: Tensor, kind: str, importance: Tensor) -> Held:
    """Scales by importance: of GGUF types by ggml's own search, which is compiled."""
    if GRIDS[kind].onnx:
        return Held.fitted(weight, kind, importance)
    return Held.of_gguf(ggml.quantize(weight.float().numpy(), kind, importance.numpy()), kind)


def inverse(gram: Tensor, damping: float = DAMPING) -> Inverse:
    """The inverse of a layer's damped gram, factored, most important input first.

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
    importance = matrix.diagonal().float()
    order = torch.argsort(importance, descending=True, stable=True)
    turned = torch.cholesky_inverse(torch.linalg.cholesky(matrix[order][:, order]))
    return Inverse(order, torch.linalg.cholesky(turned, upper=True).float(), importance)
