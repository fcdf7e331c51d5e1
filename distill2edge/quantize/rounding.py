"""Rounding a matrix onto a block grid with each column's error compensated in later columns.

GPTQ (Frantar 2022, arXiv 2210.17323, algorithm 1): what rounding a column changes in the layer's output is spread over
the columns that are not rounded yet, so that the output on the calibration inputs changes least. Blocks of columns are
taken by falling mean square of their inputs, and so are the columns within each, so that those that matter most are
rounded before errors have gathered; a block stays whole, so that its scales are fitted when its turn comes, to the
weights that it then has. (In the paper's own code any column may follow any other, `act_order`, and scales are fitted
beforehand, `static_groups`; docs/log.md compares.)
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


@dataclass(frozen=True)
class Inverse:
    """What of a layer's inputs compensation needs; types of one matrix share it.

    Attributes:
        matrix: [columns, columns] float64, inverse of the damped gram.
        importance: [columns] float32, the gram's damped diagonal.
    """

    matrix: Tensor
    importance: Tensor

    def in_order(self, size: int) -> tuple[Tensor, Tensor]:
        """Columns in the order of rounding, whole blocks of `size`, and the inverse's upper Cholesky factor in it."""
        import torch

        blocks = self.importance.view(-1, size)
        within = blocks.argsort(dim=1, descending=True, stable=True)
        places = within + size * torch.arange(len(blocks))[:, None]
        order = places[blocks.mean(1).argsort(descending=True, stable=True)].flatten()
        return order, torch.linalg.cholesky(self.matrix[order][:, order], upper=True).float()


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
    size = grid.multiple
    if columns % size:
        raise UserError(f"rows of {columns} weights don't fit {kind}: its blocks have {size}",
                        fix="choose a type of smaller blocks")  # fmt: skip
    order, upper = inputs.in_order(size)
    diagonal, left = upper.diagonal(), weight.float()[:, order]
    moved, fitted = torch.empty_like(weight, dtype=torch.float32), {}
    for at in range(0, columns, size):
        end = at + size
        block, places = int(order[at]) // size, order[at:end] % size
        span = slice(block * size, (block + 1) * size)
        chunk = left[:, at:end].clone()
        held = fitted[block] = _fitted(chunk[:, places.argsort()], kind, inputs.importance[span])
        values, errors = torch.empty_like(chunk), torch.empty_like(chunk)
        for turn, place in enumerate(places.tolist()):
            value, part = chunk[:, turn : turn + 1], place // grid.block
            scale, offset = held.scale[:, part], None if held.offset is None else held.offset[:, part]
            stored = grid.decode(grid.encode(value, scale, offset), scale, offset)
            values[:, turn] = value[:, 0]
            errors[:, turn] = (value - stored)[:, 0] / diagonal[at + turn]
            chunk[:, turn + 1 :] -= torch.outer(errors[:, turn], upper[at + turn, at + turn + 1 : end])
        moved[:, order[at:end]] = values
        left[:, end:] -= errors @ upper[at:end, end:]
    return moved, Held.joined([fitted[block] for block in range(len(fitted))])


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
    return Held.of_gguf(ggml.quantize(weight.numpy(), kind, importance.numpy()), kind)


def inverse(gram: Tensor, damping: float = DAMPING) -> Inverse:
    """The inverse of a layer's damped gram.

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
    return Inverse(torch.cholesky_inverse(torch.linalg.cholesky(matrix)), matrix.diagonal().float())
