"""A type for each matrix of an ONNX file: what each costs, in bytes and in fidelity, for `mix.choose`.

Types are kinds of `grids.GRIDS` with 16-bit scales: 4 bits with zero points or 8 bits, in blocks of several sizes. A
product's loss is that of its output after compensated rounding, each output weighted by its Fisher information (the
two factors of K-FAC, Martens 2015, arXiv 1503.05671, of the outputs' one the diagonal alone); a matrix whose inputs'
products are not known, such as an embedding that is not tied, is judged by the diagonal of the Fisher information of
its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.rounding import compensate, compensated, inverse
from distill2edge.quantize.scales import Held

if TYPE_CHECKING:
    from torch import Tensor

KINDS = tuple(name for name, grid in GRIDS.items() if grid.onnx and grid.half)
_JOINED = re.compile(r"^(.*)\.[qkv]_proj\.weight$")
_SAMPLED, _SAMPLED_TABLE, _TALL = 128, 4096, 8
"""Rows of a matrix that its losses are measured on, evenly spaced: of a product, and of a table, which has no gram or
so many times more rows than columns."""

Options = dict[str, dict[str, tuple[int, float]]]


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Group -> weights that need one type: query, key and value, which decoder graphs join into one product."""
    found: dict[str, list[str]] = {}
    for name in names:
        match = _JOINED.match(name)
        found.setdefault(f"{match[1]}.qkv_proj.weight" if match else name, []).append(name)
    return found


def size_of(kind: str, rows: int, columns: int) -> int:
    """Bytes of a matrix: codes, scales and zero points, the last block and the last byte of a row padded."""
    grid = GRIDS[kind]
    blocks = -(-columns // grid.block)
    zeros = -(-blocks * grid.bits // 8) if grid.zeros else 0
    return rows * (blocks * (grid.block * grid.bits // 8 + (2 if grid.half else 4)) + zeros)


def option(
    weight: Tensor, fisher: Tensor, inputs: Tensor | None, gram: Tensor | None, kinds: Sequence[str] = KINDS
) -> dict[str, tuple[int, float]]:
    """Type -> (bytes, expected KL in nats per token) of one matrix.

    Args:
        weight: [rows, columns] float32.
        fisher: the diagonal per token, in the weight's shape.
        inputs: [columns] mean squared input, or None for a table that is only looked up.
        gram: [columns, columns] mean of x x^T; a matrix without one is rounded by its inputs alone.
        kinds: names of grids; one whose blocks don't fill a row is left out. Where none does, rows are padded, and
            rounding is not compensated.
    """
    fit = [kind for kind in kinds if _fills(weight, kind)]
    known = None if gram is None or not fit else inverse(gram)
    table = gram is None or len(weight) > _TALL * weight.shape[1]  # rows of a vocabulary differ much
    picked = _spaced(len(weight), _SAMPLED_TABLE if table else _SAMPLED)
    matrix, each = weight[picked].float(), fisher[picked]
    share = len(weight) / len(picked)  # what the rows left out would add
    found = {}
    for kind in fit or kinds:
        if known is None:
            gap = Held.fitted(matrix, kind, inputs).stored(matrix) - matrix
            loss = 0.5 * share * float((each * gap.square()).sum())
        else:
            assert gram is not None
            assert inputs is not None
            moved, held = compensate(matrix, kind, known)
            gap = held.stored(moved) - matrix
            outer = each.sum(1, keepdim=True) / inputs.sum()
            loss = 0.5 * share * float((outer * (gap @ gram) * gap).sum())
        found[kind] = (size_of(kind, *weight.shape), loss)
    return found


def joined(table: Options) -> Options:
    """Group -> type -> (bytes, expected KL) of options by weight: those of a group add up."""
    return {
        group: {
            kind: (sum(table[name][kind][0] for name in names), sum(table[name][kind][1] for name in names))
            for kind in table[names[0]]
        }
        for group, names in groups(table).items()
    }


def _fills(weight: Tensor, kind: str) -> bool:
    return weight.shape[1] % GRIDS[kind].block == 0


def _spaced(count: int, most: int) -> list[int]:
    return [row * count // min(count, most) for row in range(min(count, most))]


def by_weight(chosen: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Weight -> type, of a choice by group."""
    return {name: chosen[group] for group, members in groups(names).items() for name in members}


def rounded(weight: Tensor, kind: str, inputs: Tensor | None, gram: Tensor | None) -> tuple[Tensor, Held]:
    """A matrix to store or to train from, and its grid: compensated where a gram is known, else by inputs alone.

    Args:
        weight: [rows, columns] float32.
        kind: name of a grid.
        inputs, gram: as for `option`.
    """
    weight = weight.float()
    if gram is not None and _fills(weight, kind):
        return compensated(weight, kind, gram)
    return weight, Held.fitted(weight, kind, inputs)
