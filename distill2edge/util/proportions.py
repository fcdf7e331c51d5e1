"""Intervals of proportions, their paired differences and ratios; in closed form, with width where no row fails. Pure.

A bootstrap of 116 rows that are all right has no width, and one of few rows claims too much. Here stand:

- a share: Wilson (1927), J. Am. Stat. Assoc. 22, 209-212;
- the difference of two shares of the same rows: Bonett and Price (2012), J. Educ. Behav. Stat. 37, 479-488;
- their ratio: Bonett and Price (2006), Stat. Med. 25, 3039-3047, the hybrid of Wilson intervals.

The last two are among those that Fagerland, Lydersen and Laake (2014), Stat. Med. 33, 2850-2875 recommend after
comparing many. A row may stand for several outcomes (positions of a text, seeds): then the effective number of
outcomes takes the place of their count, as in surveys (Korn and Graubard 1998, Surv. Methodol. 24, 193-201).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from distill2edge.util.bootstrap import Figure, Floats, checked

_Z = NormalDist().inv_cdf(0.975)


def proportion_interval(shares: Sequence[float], outcomes: Sequence[float] | None = None) -> Figure:
    """The share over all outcomes with its Wilson interval.

    Args:
        shares: [n] of each row, in 0..1; 0 or 1 where a row is one outcome.
        outcomes: [n] how many outcomes each row's share is of; None: one each.
    """
    x, w = checked(shares, outcomes)
    _in_unit(x)
    value, total = float(x @ w / w.sum()), float(w.sum())
    low, high = _wilson(value * total, total, _Z) if len(x) == total else _wilson_of_rows(x, w)
    return Figure(value, min(low, value), max(high, value), len(x))


def proportion_difference(a: Sequence[float], b: Sequence[float]) -> Figure:
    """The share of `a` minus that of `b`, of the same rows.

    Args:
        a, b: [n] of each row, in 0..1.
    """
    x, y = _pair(a, b)
    n = len(x)
    only_a, only_b = (float(x @ (1 - y)) + 1) / (n + 2), (float(y @ (1 - x)) + 1) / (n + 2)
    middle = only_a - only_b
    wide = _Z * math.sqrt((only_a + only_b - middle**2) / (n + 2))
    value = float(x.mean() - y.mean())
    return Figure(value, min(max(middle - wide, -1.0), value), max(min(middle + wide, 1.0), value), n)


def proportion_ratio(numerator: Sequence[float], denominator: Sequence[float], outcomes: int = 1) -> Figure | None:
    """The share of `numerator` over that of `denominator`, of the same rows.

    Args:
        numerator, denominator: [n] of each row, in 0..1.
        outcomes: how many outcomes (seeds) each row's share is of.

    Returns:
        None where the denominator is 0 in every row: there is no ratio.
    """
    x, y = _pair(numerator, denominator)
    if not y.any():
        return None
    value = float(x.sum() / y.sum())
    both, only_x, only_y = float(x @ y), float(x @ (1 - y)), float(y @ (1 - x))
    single = both * (1 - value) ** 2 + only_x + only_y * value**2  # variance of `x - value * y`, by outcome
    rows = outcomes * float(((x - value * y) ** 2).sum())
    scale = outcomes / _design_effect(rows, single, outcomes, int((x != y).sum()))
    both, only_x, only_y = scale * both, scale * only_x, scale * only_y
    n, first, second = both + only_x + only_y, both + only_x, both + only_y
    # The quantile at which the ends of two intervals make one of 95% for the ratio.
    apart = math.sqrt((only_x + only_y + 2) / ((first + 1) * (second + 1)))
    each = sum(math.sqrt((1 - (count + 1) / (n + 2)) / (count + 1)) for count in (first, second))
    (low, high), (below, above) = (_wilson(count, n, _Z * apart / each) for count in (first, second))
    return Figure(value, min(low / above, value), max(high / below, value), len(x))


def _wilson(hits: float, n: float, z: float) -> tuple[float, float]:
    """Both ends; counts may be broken."""
    misses = max(n - hits, 0.0)
    wide = z * math.sqrt(z**2 + 4 * hits * misses / n)
    low = (2 * hits + z**2 - wide) / (2 * (n + z**2))
    high = (2 * hits + z**2 + wide) / (2 * (n + z**2))
    return (max(low, 0.0) if hits > 0 else 0.0), (min(high, 1.0) if misses > 0 else 1.0)


def _wilson_of_rows(x: Floats, w: Floats) -> tuple[float, float]:
    """Wilson with the effective number of outcomes: their number over the design effect of the rows."""
    total, most = float(w.sum()), float((w**2).sum() / w.sum())
    middle = float(x @ w / total)
    variance, single = float((w**2 * (x - middle) ** 2).sum() / total), middle * (1 - middle)
    effect = _design_effect(variance, single, most, int(min((x < 1).sum(), (x > 0).sum())))
    return _wilson(total / effect * middle, total / effect, _Z)


def _design_effect(variance: float, single: float, most: float, differing: int) -> float:
    """How many outcomes count as one: the variance of the rows over that of `single` outcomes, 1 to `most`.

    `most` is that of rows whose outcomes all go together. The estimate is drawn to it by the weight of one row, against
    the number of rows that differ: rows that never do tell nothing, and must not pass for independent outcomes.
    """
    found = min(max(variance / single, 1.0), most) if single > 0 else most
    return (differing * found + most) / (differing + 1)


def _pair(a: Sequence[float], b: Sequence[float]) -> tuple[Floats, Floats]:
    (x, _), (y, _) = checked(a, None), checked(b, None)
    _in_unit(x)
    _in_unit(y)
    if x.shape != y.shape:
        raise ValueError(f"paired values differ in number: {len(x)} and {len(y)}")
    return x, y


def _in_unit(x: Floats) -> None:
    if (x < 0).any() or (x > 1).any():
        raise ValueError("shares lie between 0 and 1")
