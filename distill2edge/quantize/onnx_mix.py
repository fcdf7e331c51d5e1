"""A type for each matrix of an ONNX file: what each costs, in bytes and in fidelity, for `mix.choose`.

Types are kinds of `grids.GRIDS` with 16-bit scales: 4 bits with zero points or 8 bits, in blocks of several sizes. A
product's loss is that of its output after compensated rounding, each output weighted by its Fisher information (the
two factors of K-FAC, Martens 2015, arXiv 1503.05671, of the outputs' one the diagonal alone); a matrix whose inputs'
products are not known, such as a tied embedding, is judged by the diagonal of the Fisher information of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.mix import choose
from distill2edge.quantize.rounding import DAMPING, compensate, compensated, inverse_factor
from distill2edge.quantize.scales import Held

if TYPE_CHECKING:
    from torch import Tensor

KINDS = tuple(name for name, grid in GRIDS.items() if grid.onnx and grid.half)
_JOINED = re.compile(r"^(.*)\.[qkv]_proj\.weight$")
_SAMPLED, _SAMPLED_LOOKUP = 128, 4096
"""Rows of a matrix that its losses are measured on, evenly spaced: of a product, of a matrix without a gram."""

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


def options(
    weights: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    grams: Mapping[str, Tensor],
    kinds: Sequence[str] = KINDS,
) -> Options:
    """Group -> type -> (bytes, expected KL in nats per token).

    Args:
        weights: name -> [rows, columns] float32.
        fisher: name -> the diagonal per token, in the weight's shape.
        inputs: name -> [columns] mean squared input.
        grams: name -> [columns, columns] mean of x x^T; matrices without one are rounded by their inputs alone.
        kinds: names of grids; one whose blocks don't fill a row is left out.
    """
    import torch

    found: Options = {}
    for group, names in groups(weights).items():
        columns = weights[names[0]].shape[1]
        gram = grams.get(names[0])
        upper = None if gram is None else inverse_factor(gram, DAMPING)
        picked = [_spaced(len(weights[name]), _SAMPLED_LOOKUP if gram is None else _SAMPLED) for name in names]
        matrix = torch.cat([weights[name][rows].float() for name, rows in zip(names, picked, strict=True)])
        each = torch.cat([fisher[name][rows] for name, rows in zip(names, picked, strict=True)])
        # What the rows left out would add.
        share = torch.cat([torch.full((len(rows), 1), len(weights[name]) / len(rows))
                           for name, rows in zip(names, picked, strict=True)])  # fmt: skip
        found[group] = {}
        for kind in kinds:
            if columns % GRIDS[kind].block:
                continue
            if upper is None:
                gap = Held.fitted(matrix, kind, inputs[names[0]]).stored(matrix) - matrix
                loss = 0.5 * float((share * each * gap.square()).sum())
            else:
                assert gram is not None
                moved, held = compensate(matrix, kind, upper)
                gap = held.stored(moved) - matrix
                outer = each.sum(1, keepdim=True) / inputs[names[0]].sum()
                loss = 0.5 * float((share * outer * (gap @ gram) * gap).sum())
            size = sum(size_of(kind, len(weights[name]), columns) for name in names)
            found[group][kind] = (size, loss)
    return found


def _spaced(count: int, most: int) -> list[int]:
    return [row * count // min(count, most) for row in range(min(count, most))]


def types(table: Options, names: Iterable[str], budget: int) -> dict[str, str]:
    """Weight -> type within a budget of bytes for all of them.

    Raises:
        UserError: the smallest types together exceed the budget.
    """
    chosen = choose(table, budget)
    return {name: chosen[group] for group, members in groups(names).items() for name in members}


def rounded(
    weights: Mapping[str, Tensor], kinds: Mapping[str, str], inputs: Mapping[str, Tensor], grams: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Held]]:
    """Weights to store or to train from, and their grids: compensated where a gram is known, else by inputs alone.

    Args:
        weights: name -> [rows, columns] float32.
        kinds: name -> type.
        inputs, grams: as for `options`.
    """
    moved: dict[str, Tensor] = {}
    grids: dict[str, Held] = {}
    for name, kind in kinds.items():
        weight = weights[name].float()
        if name in grams:
            moved[name], grids[name] = compensated(weight, kind, grams[name])
        else:
            moved[name], grids[name] = weight, Held.fitted(weight, kind, inputs[name])
    return moved, grids
