"""A type for each matrix of an ONNX file: what each costs, in bytes and in fidelity, for `allocation.choose`.

Types are those of `types.ONNX_TYPES` with 16-bit scales: 4 bits with zero points or 8 bits, in blocks of several sizes.
A product's loss is that of its output after compensated rounding, each output weighted by its Fisher information (the
two factors of K-FAC, Martens 2015, arXiv 1503.05671, of the outputs' one the diagonal alone); a matrix whose inputs'
products are not known, such as an embedding that is not tied, is judged by the diagonal of the Fisher information of
its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from distill2edge.quantize.allocation import Pace
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.rounding import inverse, round_matrix
from distill2edge.quantize.types import ONNX_TYPES

if TYPE_CHECKING:
    from torch import Tensor

    from distill2edge.quantize.schemes import Scheme

REST = "int8"
"""Of a matrix that nothing was measured of, in a mix."""
KINDS = tuple(name for name, each in ONNX_TYPES.items() if not each.stock)
_JOINED = re.compile(r"^(.*)\.[qkv]_proj\.weight$")
_SAMPLED, _SAMPLED_TABLE, _TALL = 128, 4096, 8
"""Rows of a matrix that its losses are measured on, evenly spaced: of a product, and of a table, which has no gram or
so many times more rows than columns."""

Groups = Mapping[str, Sequence[str]]
Options = dict[str, dict[str, tuple[int, float]]]


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Group -> weights that need one type: query, key and value, which decoder graphs join into one product. Of other
    kinds of models see `quantize.shared_inputs`."""
    found: dict[str, list[str]] = {}
    for name in names:
        match = _JOINED.match(name)
        found.setdefault(f"{match[1]}.qkv_proj.weight" if match else name, []).append(name)
    return found


PLAIN = "int4-b32"
"""The stock type that a mix is not to be slower than."""


def pace_of(weights: Mapping[str, int], options: Mapping[str, Iterable[str]]) -> Pace:
    """A token may take as long as in plain int4.

    Args:
        weights: group -> weights that a token is multiplied by.
        options: group -> types that it may have.
    """
    times = {
        group: {kind: count * ONNX_TYPES[kind].pace for kind in options[group]} for group, count in weights.items()
    }
    return Pace(times, sum(weights.values()) * ONNX_TYPES[PLAIN].pace)


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
        moved, grid = round_matrix(matrix, kind, inputs, known)
        gap = grid.fake_quantized(moved) - matrix
        if known is None:
            loss = 0.5 * share * float((each * gap.square()).sum())
        else:
            assert gram is not None
            assert inputs is not None
            outer = each.sum(1, keepdim=True) / inputs.sum()
            loss = 0.5 * share * float((outer * (gap @ gram) * gap).sum())
        found[kind] = (ONNX_TYPES[kind].size(*weight.shape), loss)
    return found


def joined(table: Options, members: Groups) -> Options:
    """Group -> type -> (bytes, expected KL) of options by weight: those of a group add up."""
    return {
        group: {
            kind: (sum(table[name][kind][0] for name in names), sum(table[name][kind][1] for name in names))
            for kind in table[names[0]]
        }
        for group, names in members.items()
    }


def _fills(weight: Tensor, kind: str) -> bool:
    return weight.shape[1] % GRIDS[kind].block == 0


def _spaced(count: int, most: int) -> list[int]:
    return [row * count // min(count, most) for row in range(min(count, most))]


def rest_of(scheme: Scheme) -> str:
    """The type of matrices that nothing was measured of, such as a table of positions: they are rounded plainly."""
    return REST if scheme.mix else scheme.base


def by_weight(chosen: Mapping[str, str], members: Groups) -> dict[str, str]:
    """Weight -> type, of a choice by group."""
    return {name: kind for group, kind in chosen.items() for name in members[group]}
