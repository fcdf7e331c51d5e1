"""The rounding step of each scheme on a given tensor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distill2edge.quantize.schemes import DYNAMIC, Scheme


class Grid(NamedTuple):
    """Uniform levels within a block of consecutive weights of a row.

    Attributes:
        block: weights that share a scale.
        levels: the span of a block / its step: of [-absmax, absmax] where symmetric, else of [min, max].
        symmetric: levels about zero (scale alone), or a scale and a minimum.
    """

    block: int
    levels: float
    symmetric: bool


_SYMMETRIC_8, _SYMMETRIC_4 = Grid(32, 254, True), Grid(32, 16, True)
_TYPES = {
    "Q8_0": _SYMMETRIC_8,
    "Q6_K": Grid(16, 64, True),
    "Q5_K": Grid(32, 31, False),
    "Q5_0": Grid(32, 32, True),
    "Q5_1": Grid(32, 31, False),
    "Q4_K": Grid(32, 15, False),
    "Q4_0": _SYMMETRIC_4,
    "Q4_1": Grid(32, 15, False),
    "IQ4_NL": _SYMMETRIC_4,  # not uniform: its mean step is that of 16 levels
    "IQ4_XS": _SYMMETRIC_4,
    "Q3_K": Grid(16, 8, True),
    "Q2_K": Grid(16, 3, False),
}
_FALLBACK = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "Q3_K": "IQ4_NL", "Q2_K": "IQ4_NL", "IQ4_XS": "IQ4_NL"}
"""What llama.cpp takes where a row is no multiple of 256 weights."""

_MANTISSA = {"fp32": 23, "F32": 23, "fp16": 10, "F16": 10, "BF16": 7}
_ONNX = {"int8": _SYMMETRIC_8, "int4-b32": _SYMMETRIC_4}


def rounding_step(weight: Tensor, scheme: Scheme) -> float:
    """Root mean square over a matrix of the distance between neighbouring values that the scheme can store.

    The scales themselves are taken as exact, and mixtures (`_S`, `_M`, `_L`) as their main type: an estimate.

    Args:
        weight: [rows, columns] in float32.

    Returns:
        the step, in the unit of the weights.
    """
    assert weight.ndim == 2, weight.shape
    if scheme.name in _MANTISSA:
        # Values of one binade are 2^(exponent - mantissa bits) apart.
        _, exponent = torch.frexp(weight)
        return _rms(torch.ldexp(torch.ones_like(weight), exponent - 1 - _MANTISSA[scheme.name]))
    columns = weight.shape[1]
    if str(scheme) == DYNAMIC:
        grid = Grid(columns, 254, True)  # one scale for each output
    else:
        grid = _ONNX[scheme.name] if scheme.format == "onnx" else _gguf(scheme.name, columns)
    if columns % grid.block:
        weight = torch.nn.functional.pad(weight, (0, grid.block - columns % grid.block))
    blocks = weight.float().reshape(weight.shape[0], -1, grid.block)
    if grid.symmetric:
        return _rms(2 * blocks.abs().amax(-1) / grid.levels)
    # A minimum is stored as a subtrahend: the range always includes zero.
    low, high = blocks.amin(-1).clamp_max(0), blocks.amax(-1)
    return _rms((high - low) / grid.levels)


def _gguf(name: str, columns: int) -> Grid:
    kind = name.rsplit("_", 1)[0] if name.endswith(("_S", "_M", "_L")) and not name.startswith("IQ") else name
    if columns % 256:
        kind = _FALLBACK.get(kind, kind)
    return _TYPES[kind]


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
