"""The bytes of K-quants: super-blocks of 256 weights, whose sub-blocks have scales that are packed into one header.

A header has a 16-bit scale for the sub-blocks' own small scales (and in Q4_K and Q5_K another for their minima), so
the scales of one sub-block cannot be picked alone: ggml picks them, and a header is kept as it is. Sources: block_q4_K,
block_q5_K and block_q6_K in ggml-common.h for the layouts; dequantize_row_q4_K and its neighbours in ggml-quants.c for
what they stand for.
"""

from __future__ import annotations

import numpy as np

from distill2edge.gguf.ggml_types import GGML_TYPES

SUPER = 256
"""Weights of a super-block."""
KINDS = tuple(name for name, each in GGML_TYPES.items() if each.header is not None)


def header(blocks: np.ndarray, kind: str) -> np.ndarray:
    """The headers of super-blocks: [..., bytes] uint8 -> [..., 16] or, in Q6_K, [..., 18]."""
    return np.ascontiguousarray(blocks[..., GGML_TYPES[kind].header])


def scales(headers: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    """What headers say of each sub-block, multiplied as ggml does: no product loses a bit in float32.

    Args:
        headers: [..., super-blocks, bytes] uint8.

    Returns:
        scale and offset, [..., sub-blocks] float32; of Q6_K, which has no offset, None. A scale may be negative or 0,
        and NaN or Inf where a 16-bit one has overflowed.
    """
    with np.errstate(invalid="ignore"):  # Inf x 0
        if kind == "Q6_K":
            small = headers[..., :16].view(np.int8).astype(np.float32)
            return _flat(_half(headers[..., 16:]) * small), None
        small, minima = _sixes(headers[..., 4:])
        return _flat(_half(headers[..., :2]) * small), _flat(-(_half(headers[..., 2:4]) * minima))


def pack(headers: np.ndarray, codes: np.ndarray, kind: str) -> np.ndarray:
    """Super-blocks of headers and codes.

    Args:
        headers: [..., bytes] uint8.
        codes: [..., 256] uint8, below 16, 32 or 64.

    Returns:
        [..., bytes] uint8.
    """
    if kind == "Q6_K":
        quarters = codes.reshape(*codes.shape[:-1], 2, 4, 32)  # of each half: the first two low, the others high
        low = (quarters[..., :2, :] & 0xF) | (quarters[..., 2:, :] << 4)
        shifts = np.array([[0], [2], [4], [6]], dtype=np.uint8)
        high = np.bitwise_or.reduce((quarters >> 4) << shifts, axis=-2)
        return np.concatenate([_joined(low, codes), _joined(high, codes), headers], axis=-1)
    eighths = codes.reshape(*codes.shape[:-1], 8, 32)
    low = (eighths[..., ::2, :] & 0xF) | (eighths[..., 1::2, :] << 4)
    parts = [headers, _joined(low, codes)]
    if kind == "Q5_K":  # bit j of byte i: the fifth of weight i in sub-block j
        parts.insert(1, _joined(np.packbits(eighths >> 4, axis=-2, bitorder="little"), codes))
    return np.concatenate(parts, axis=-1)


def _sixes(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minima of 6 bits from 12 bytes: four of each lie in the low bits of the first eight bytes,
    the other four as nibbles in the last four, with their top bits over the former."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    small = np.concatenate([first & 63, (third & 0xF) | (first >> 6 << 4)], axis=-1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1)
    return small.astype(np.float32), minima.astype(np.float32)


def _half(pair: np.ndarray) -> np.ndarray:
    """[..., 2] bytes -> [..., 1] float32."""
    return np.ascontiguousarray(pair).view(np.float16).astype(np.float32)


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(*values.shape[:-2], -1)


def _joined(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """All bytes of a super-block in one axis, beside the axes that codes have before theirs."""
    return values.reshape(*codes.shape[:-1], -1)
