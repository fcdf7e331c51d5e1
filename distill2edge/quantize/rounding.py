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
from distill2edge.quantize.scales import TensorGrid

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DAMPING = 0.01
"""Share of the mean diagonal that is added to it, as in the paper."""


@dataclass(frozen=True)
class Inverse:
    """What compensation needs to know of a layer's inputs; all types of one matrix share it.

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


def round_matrix(
    weight: Tensor, kind: str, importance: Tensor | None, gram: Tensor | Inverse | None
) -> tuple[Tensor, TensorGrid]:
    """A matrix moved so that its nearest levels are those to store, in a file or to train from, and its grid:
    compensated where the inputs are known, else by importance alone.

    Args:
        weight: [rows, columns].
        kind: a type with a grid (`grids.GRIDS`).
        importance: [columns] mean squared inputs; None: every weight alike.
        gram: [columns, columns], sum or mean of x x^T over calibration inputs, or what `inverse` makes of it; None
            where there is none, and zero where no calibration token passed. Rounding is not compensated in either
            case, nor where the last block of a row is padded.

    Raises:
        UserError: weights that are not finite, rows that the type cannot hold.
    """
    weight = weight.float()
    if gram is None or not _compensable(kind, weight.shape[1], gram):
        return weight, _fitted(weight, kind, importance)
    return compensate(weight, kind, gram if isinstance(gram, Inverse) else inverse(gram))


def gguf_bytes(weight: Tensor, kind: str, importance: Tensor | None, gram: Tensor | None) -> np.ndarray:
    """The bytes [rows, row bytes] uint8 of a matrix in a ggml type: what `round_matrix` makes of it, packed; and by
    ggml's own search, weighted by importance, where nothing is compensated.

    Args:
        weight, importance, gram: as for `round_matrix`.
        kind: a ggml type.
    """
    if gram is None or not _compensable(kind, weight.shape[1], gram):
        return ggml.quantize(weight.float().numpy(), kind, _array(importance))
    moved, grid = round_matrix(weight, kind, importance, gram)
    return grid.gguf(moved)


def compensate(weight: Tensor, kind: str, inputs: Inverse) -> tuple[Tensor, TensorGrid]:
    """Weights moved so that their nearest levels are those of GPTQ, and their grid.

    Args:
        weight: [rows, columns] float32, columns a multiple of the grid's block.
        kind: name of a grid.

    Returns:
        moved weights [rows, columns], to store or to train from, and the grid.

    Raises:
        UserError: weights that are not finite, or columns that the grid cannot hold.
    """
    import torch

    checked(weight, kind)
    levels, columns = GRIDS[kind], weight.shape[1]
    size = levels.multiple
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
        grid = fitted[block] = _fitted(chunk[:, places.argsort()], kind, inputs.importance[span])
        values, errors = torch.empty_like(chunk), torch.empty_like(chunk)
        for turn, place in enumerate(places.tolist()):
            value, part = chunk[:, turn : turn + 1], place // levels.block
            scale, offset = grid.scale[:, part], None if grid.offset is None else grid.offset[:, part]
            stored = levels.decode(levels.encode(value, scale, offset), scale, offset)
            values[:, turn] = value[:, 0]
            errors[:, turn] = (value - stored)[:, 0] / diagonal[at + turn]
            chunk[:, turn + 1 :] -= torch.outer(errors[:, turn], upper[at + turn, at + turn + 1 : end])
        moved[:, order[at:end]] = values
        left[:, end:] -= errors @ upper[at:end, end:]
    return moved, TensorGrid.joined([fitted[block] for block in range(len(fitted))])


def _compensable(kind: str, columns: int, gram: Tensor | Inverse) -> bool:
    known = isinstance(gram, Inverse) or bool(gram.diagonal().any())
    return kind in GRIDS and columns % GRIDS[kind].multiple == 0 and known


def _fitted(weight: Tensor, kind: str, importance: Tensor | None) -> TensorGrid:
    """Scales by importance: of GGUF types by ggml's own search, which is compiled."""
    if GRIDS[kind].onnx:
        return TensorGrid.fitted(weight, kind, importance)
    return TensorGrid.of_gguf(ggml.quantize(weight.numpy(), kind, _array(importance)), kind)


def _array(importance: Tensor | None) -> np.ndarray | None:
    return None if importance is None else importance.numpy()


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
