"""What each type would cost each tensor, without running the model again for each.

To second order, a change d of the weights moves the output distribution by KL = 1/2 d' F d, with F the Fisher
information; its diagonal alone is kept. `benchmarks/quantization_aware.py` compares the sum with the KL of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distill2edge.quantize import ggml

if TYPE_CHECKING:
    import numpy as np

KINDS = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def options(
    weights: Mapping[str, np.ndarray],
    fisher: Mapping[str, np.ndarray],
    importance: Mapping[str, np.ndarray],
    kinds: Sequence[str] = KINDS,
) -> dict[str, dict[str, tuple[int, float]]]:
    """Tensor -> type -> (bytes, expected KL in nats per token), for `mix.choose`.

    Args:
        weights: name -> [rows, columns] float32.
        fisher: name -> the diagonal per token, in the weight's shape.
        importance: name -> [columns], what the types are rounded by.
        kinds: ggml types whose blocks the columns fit.
    """
    found: dict[str, dict[str, tuple[int, float]]] = {}
    for name, weight in weights.items():
        columns = weight.shape[1]
        found[name] = {}
        for kind in kinds:
            if columns % ggml.block(kind):
                continue
            stored = ggml.dequantize(ggml.quantize(weight, kind, importance[name]), kind, columns)
            loss = 0.5 * float((fisher[name] * (stored - weight) ** 2).sum())
            found[name][kind] = (len(weight) * ggml.row_bytes(kind, columns), loss)
    return found
