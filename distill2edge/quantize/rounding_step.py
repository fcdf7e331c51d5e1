"""The rounding step of each scheme on a given tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from distill2edge.gguf.ggml_types import GGML_TYPES, GgmlType, Levels
from distill2edge.quantize.schemes import Scheme
from distill2edge.quantize.types import OnnxType


def rounding_step(weight: Tensor, scheme: Scheme) -> float:
    """Root mean square over a matrix of the distance between neighbouring values that the scheme can store.

    The scales themselves are taken as exact, and mixtures (`_S`, `_M`, `_L`) as their main type: an estimate.

    Args:
        weight: [rows, columns] float32.
        scheme: a stock scheme, no mix.

    Returns:
        the step, in the unit of the weights.
    """
    assert weight.ndim == 2, weight.shape
    kind = scheme.type
    assert kind is not None, scheme
    if kind.mantissa is not None:
        # Values of one binade are 2^(exponent - mantissa bits) apart.
        _, exponent = torch.frexp(weight)
        return _rms(torch.ldexp(torch.ones_like(weight), exponent - 1 - kind.mantissa))
    columns = weight.shape[1]
    levels = _fitting(kind, columns) if isinstance(kind, GgmlType) else kind.levels
    assert levels is not None
    steps = kind.recorded_steps if isinstance(kind, OnnxType) and kind.recorded_steps else levels.steps
    block = levels.block or columns
    if columns % block:
        weight = torch.nn.functional.pad(weight, (0, block - columns % block))
    blocks = weight.float().reshape(weight.shape[0], -1, block)
    if not levels.affine:
        return _rms(2 * blocks.abs().amax(-1) / steps)
    # A minimum is stored as a subtrahend: the range always includes zero.
    low, high = blocks.amin(-1).clamp_max(0), blocks.amax(-1)
    return _rms((high - low) / steps)


def _fitting(kind: GgmlType, columns: int) -> Levels | None:
    """Of the type itself, or of what it falls back to; rows that no block fits are taken as padded."""
    fallback = None if kind.fallback is None else GGML_TYPES[kind.fallback].levels
    return fallback if columns % kind.block and fallback is not None else kind.levels


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
