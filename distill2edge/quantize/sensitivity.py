"""What each type would cost each tensor, without running the model again for each.

To second order, a change d of the weights moves the output distribution by KL = 1/2 d' F d, with F the Fisher
information; its diagonal alone is kept. `benchmarks/sensitivity.py` compares it with the KL of files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from distill2edge.gguf.ggml_types import GGML_TYPES, LAST_RESORT
from distill2edge.gguf.repack import padded
from distill2edge.quantize import ggml
from distill2edge.quantize.grids import FITTED, GRIDS

if TYPE_CHECKING:
    import numpy as np

KINDS = tuple(name for name, each in GGML_TYPES.items() if each.levels is not None)
"""Types that a mix may use; those with blocks of 256 weights only where the columns fit."""
_COMPENSATED, _COMPENSATED_SUPER = 0.5, 0.65
"""Share of the KL that is left where errors are compensated, of that of rounding by importance, and the same of types
whose scales are fitted to 256 weights at a time: the diagonal cannot show it (docs/log.md)."""


def options(
    weights: Mapping[str, np.ndarray],
    fisher: Mapping[str, np.ndarray],
    importance: Mapping[str, np.ndarray],
    kinds: Sequence[str] = KINDS,
    grams: Collection[str] = (),
) -> dict[str, dict[str, tuple[int, float]]]:
    """Tensor -> type -> (bytes, expected KL in nats per token), for `allocation.choose`.

    Args:
        weights: name -> [rows, columns] float32.
        fisher: name -> the diagonal per token, in the weight's shape.
        importance: name -> [columns], what the types are rounded by.
        kinds: ggml types.
        grams: names whose errors can be compensated, since the products of their inputs are known.
    """
    return {
        name: option(weight, fisher[name], importance[name], kinds, compensated=name in grams)
        for name, weight in weights.items()
    }


def option(
    weight: np.ndarray,
    fisher: np.ndarray,
    importance: np.ndarray | None,
    kinds: Sequence[str] = KINDS,
    *,
    compensated: bool = False,
) -> dict[str, tuple[int, float]]:
    """One tensor's part of `options`: the types whose blocks fit, or `LAST_RESORT` alone.

    Args:
        compensated: whether errors will be, in the types whose rounding can be.
    """
    rows, columns = weight.shape
    found: dict[str, tuple[int, float]] = {}
    for kind in [kind for kind in kinds if columns % GGML_TYPES[kind].block == 0] or [LAST_RESORT]:
        stored = ggml.dequantize(ggml.quantize(weight, kind, importance), kind, columns)
        loss = 0.5 * float((fisher * (stored - weight) ** 2).sum())
        if compensated:
            loss *= left_of(kind)
        found[kind] = (padded(rows * GGML_TYPES[kind].row_bytes(columns)), loss)
    return found


def left_of(kind: str) -> float:
    """Share of a type's KL that is left where errors are compensated; 1 of one whose rounding cannot be."""
    if kind not in GRIDS:
        return 1.0
    return _COMPENSATED if kind in FITTED else _COMPENSATED_SUPER
