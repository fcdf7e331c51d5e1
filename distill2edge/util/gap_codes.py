"""Sets of small numbers in few bits: sorted, each as its distance to the one before, in exponential Golomb codes.

A gap g >= 0 (one less than the distance; the first is counted from -1) is written with its set's parameter l as
v = g + 2^l: the number e of bits that v has beyond l + 1 in unary (e zeros and a one), then the e + l bits of v below
its leading one (Teuhola 1978, "A compression method for clustered bit-vectors"). Small ids are frequent tokens, so gaps
are short at first and long later: these codes follow that, those of a fixed width do not. Each set has an l of its own.

The code of many sets is all unary bits, filled up to a byte, then all others likewise; a byte's highest bit is first.
"""

from __future__ import annotations

import numpy as np

MAX_BITS = 31
"""Bits of the largest number + 1."""


def encode(numbers: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Code sets of numbers.

    Args:
        numbers: [sum of counts] integers, ascending and distinct within each set, from 0 to 2^31 - 2.
        counts: [P] sizes of the sets.

    Returns:
        parameters [P] uint8, code [B] uint8.
    """
    gaps = _gaps(np.asarray(numbers, np.int64), counts)
    best, least = np.zeros(len(counts), np.uint8), np.full(len(counts), np.iinfo(np.int64).max)
    owner = np.repeat(np.arange(len(counts)), counts)
    widest = int(gaps.max(initial=0)).bit_length()
    for parameter in range(widest + 1):
        bits = 2 * _log2(gaps + (1 << parameter)) - parameter + 1
        total = np.bincount(owner, weights=bits, minlength=len(counts))
        better = total < least
        best[better], least[better] = parameter, total[better].astype(np.int64)
    own = best[owner].astype(np.int64)
    value = gaps + (1 << own)
    bits = _log2(value)
    unary = np.zeros(int((bits - own + 1).sum()), np.uint8)
    unary[np.cumsum(bits - own + 1) - 1] = 1
    place = np.arange(int(bits.sum())) - np.repeat(np.cumsum(bits) - bits, bits)
    rest = (np.repeat(value, bits) >> (np.repeat(bits, bits) - 1 - place)) & 1
    return best, np.concatenate([np.packbits(unary), np.packbits(rest.astype(np.uint8))])


def decode(code: np.ndarray, parameters: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers that `encode` was given.

    Args:
        code: [B] uint8; parameters, counts: [P].

    Returns:
        [sum of counts] int64.

    Raises:
        ValueError: a code that is not of these sets.
    """
    counts = np.asarray(counts, np.int64)
    total = int(counts.sum())
    ones = np.flatnonzero(np.unpackbits(code, count=min(8 * len(code), total * (MAX_BITS + 1))))[:total]
    if len(ones) < total or parameters.max(initial=0) > MAX_BITS:
        raise ValueError("a code of gaps ends too early")
    own = np.repeat(parameters.astype(np.int64), counts)
    bits = np.diff(ones, prepend=-1) - 1 + own
    begin = np.cumsum(bits) - bits
    head = -(-int(ones[-1] + 1) // 8) if total else 0
    if head + -(-int(bits.sum()) // 8) != len(code) or bits.max(initial=0) > MAX_BITS:
        raise ValueError("a code of gaps has another length than its numbers")
    window = np.concatenate([code[head:], np.zeros(5, np.uint8)]).astype(np.int64)
    at, shift = begin >> 3, 40 - (begin & 7) - bits
    word = sum(window[at + n] << (32 - 8 * n) for n in range(5))
    gaps = ((word >> shift) & ((1 << bits) - 1)) + (1 << bits) - (1 << own)
    summed = np.cumsum(gaps + 1)
    first = np.cumsum(counts) - counts
    before = np.concatenate([[0], summed])[first]
    return summed - np.repeat(before, counts) - 1


def _gaps(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """One less than the distance to the number before, in each set."""
    before = np.concatenate([[-1], numbers[:-1]])[: len(numbers)]
    counts = np.asarray(counts, np.int64)
    first = (np.cumsum(counts) - counts)[counts > 0]
    before[first] = -1
    gaps = numbers - before - 1
    assert gaps.min(initial=0) >= 0, "numbers of a set are ascending and distinct"
    return gaps


def _log2(values: np.ndarray) -> np.ndarray:
    """The floor of the logarithm of whole numbers from 1 below 2^52."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
