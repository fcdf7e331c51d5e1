"""Distances of numbers."""

from __future__ import annotations

from torch import Tensor


def squared_error(wanted: Tensor, own: Tensor) -> Tensor:
    """Square of the difference [B] of two numbers of each text [B]."""
    assert wanted.shape == own.shape, (wanted.shape, own.shape)
    return (own - wanted).square()
