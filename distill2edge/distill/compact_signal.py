"""A teacher's distributions in few bytes: how the positions of one example are coded, and read again.

Of each position some tokens are kept, ascending, at the signal's temperature:

- **sampled**: those of at least about 1 / N have their own probability; the others were drawn, and each stands for an
  equal part of `rest`. `extra` is the entropy of the whole distribution, in nats.
- **by mass**: the likeliest, each with its own; `rest` is all other tokens together, `extra` the logarithm of a
  probability that none of the kept is below.

The body of an example is, one after another: of a sampled one a bit for each token, whether its probability is its own;
a level for each of those, 8 bits; the ids, by `util.gap_codes`. Level n is the probability exp(f (1 - n / 255)): even
steps of the logarithm, from f to 0, f being `extra` or -log(2 N). Those of a position are then scaled, so that they and
the rest add up to 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from distill2edge.util import gap_codes

LEVELS = 255
LEAST_STEP = 2.0**-8
"""Least size of f: a token that is certain would leave no steps."""


class Kept(NamedTuple):
    """The kept tokens of P positions, n in all.

    Attributes:
        tokens: [n] int64, ascending within a position.
        counts: [P] int64.
        stands_for: [n] float32, the probability that each stands for; with the rest of a signal by mass those of a
            position add up to 1.
        own: [n] whether that is its own.
        rest, extra: [P] float32; see above. `rest` is the logarithm.
    """

    tokens: np.ndarray
    counts: np.ndarray
    stands_for: np.ndarray
    own: np.ndarray
    rest: np.ndarray
    extra: np.ndarray


class Coded(NamedTuple):
    """The same as it lies in a shard: counts [P] of any integers, parameter [P] uint8, rest and extra [P] float16, body
    [B] uint8."""

    counts: np.ndarray
    parameter: np.ndarray
    rest: np.ndarray
    extra: np.ndarray
    body: np.ndarray


def pack(kept: Kept, sample: int | None) -> Coded:
    """Code the positions of one example; `sample`: N of a sampled one."""
    extra = kept.extra.astype(np.float16)
    f = np.repeat(_lowest(extra, sample), kept.counts)[kept.own]
    level = np.rint((1.0 - np.log(kept.stands_for[kept.own]) / f) * LEVELS)
    parameter, code = gap_codes.encode(kept.tokens, kept.counts)
    body = [] if sample is None else [np.packbits(kept.own)]
    body += [np.clip(level, 0, LEVELS).astype(np.uint8), code]
    return Coded(kept.counts, parameter, kept.rest.astype(np.float16), extra, np.concatenate(body))


def unpack(coded: Coded, sample: int | None) -> Kept:
    """What `pack` was given, its probabilities rounded.

    Raises:
        ValueError: a body that is not of these positions.
    """
    counts, body = coded.counts.astype(np.int64), coded.body
    own = np.ones(int(counts.sum()), bool)
    if sample is not None:
        flags = -(-len(own) // 8)
        if len(body) < flags:
            raise ValueError("flags are missing")
        own, body = np.unpackbits(body[:flags], count=len(own)).astype(bool), body[flags:]
    held = int(own.sum())
    if len(body) < held:
        raise ValueError("levels are missing")
    tokens = gap_codes.decode(body[held:], coded.parameter, counts)
    position = np.repeat(np.arange(len(counts)), counts)
    level, of_own = body[:held].astype(np.float32), position[own]
    p = np.exp(_lowest(coded.extra, sample)[of_own] * (1.0 - level / LEVELS))
    rest = np.exp(coded.rest.astype(np.float64))
    mass = np.bincount(of_own, weights=p, minlength=len(counts))
    drawn = counts - np.bincount(of_own, minlength=len(counts))
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where((mass > 0) | (drawn == 0), rest, 1.0)
        scale, part = (1.0 - rest) / mass, rest / drawn
    stands_for = np.where(own, 0.0, part[position])
    stands_for[own] = p * scale[of_own]
    return Kept(
        tokens,
        counts,
        stands_for.astype(np.float32),
        own,
        coded.rest.astype(np.float32),
        coded.extra.astype(np.float32),
    )


def _lowest(extra: np.ndarray, sample: int | None) -> np.ndarray:
    """f of each position."""
    given = extra.astype(np.float32) if sample is None else np.full(len(extra), -math.log(2 * sample), np.float32)
    return np.minimum(given, np.float32(-LEAST_STEP))
