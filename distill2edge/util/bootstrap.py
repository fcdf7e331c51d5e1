"""Figures with intervals: percentile bootstrap (Efron 1979) of means, medians and paired ratios. Pure.

For shares of rows that are right see `proportions`: a bootstrap of rows that are all right has no width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
_RESAMPLES = 2000
_CELLS = 4_000_000  # indices in memory at once


@dataclass(frozen=True)
class Figure:
    """A value, its 95% interval and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """For JSON: `{"value", "low", "high", "n"}`."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def map(self, function: Callable[[float], float]) -> Figure:
        """The figure of a monotone function of the value; percentile intervals map along, in either direction."""
        low, high = sorted((function(self.low), function(self.high)))
        return Figure(function(self.value), low, high, self.n)


def mean_interval(values: Sequence[float], weights: Sequence[float] | None = None, *, seed: int = 0) -> Figure:
    """The weighted mean over items, resampling items.

    With one value and weight per row (the mean over its tokens, and their number) this is the mean over tokens
    with an interval that respects that the tokens of a row go together.

    Args:
        values: [n] finite numbers.
        weights: [n] non-negative, of positive sum; None weighs all alike.
        seed: of the resampling.
    """
    x, w = checked(values, weights)
    draws = np.concatenate([_weighted(x, w, rows) for rows in _resamples(len(x), seed)])
    return _figure(float(x @ w / w.sum()), draws, len(x))


def difference_interval(
    a: Sequence[float],
    b: Sequence[float],
    weights_a: Sequence[float] | None = None,
    weights_b: Sequence[float] | None = None,
    *,
    seed: int = 0,
) -> Figure:
    """The weighted mean of `a` minus that of `b`, resampling the same items in both (paired)."""
    (x, v), (y, w) = checked(a, weights_a), checked(b, weights_b)
    _paired(x, y)
    draws = [_weighted(x, v, rows) - _weighted(y, w, rows) for rows in _resamples(len(x), seed)]
    return _figure(float(x @ v / v.sum() - y @ w / w.sum()), np.concatenate(draws), len(x))


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float], *, seed: int = 0) -> Figure | None:
    """The mean of `numerator` over that of `denominator`, resampling the same items in both (paired).

    Returns:
        None where the denominator's mean is 0: there is no ratio. Resamples in which it is 0 are left out.
    """
    (x, _), (y, _) = checked(numerator, None), checked(denominator, None)
    _paired(x, y)
    if y.mean() == 0:
        return None
    draws = []
    for rows in _resamples(len(x), seed):
        below = y[rows].mean(axis=1)
        some = below != 0
        draws.append(x[rows].mean(axis=1)[some] / below[some])
    return _figure(float(x.mean() / y.mean()), np.concatenate(draws), len(x))


def median_interval(groups: Sequence[Sequence[float]], *, seed: int = 0) -> Figure:
    """The median over all samples, resampling groups (processes), then samples within each (requests).

    Samples of one process share its luck, so a plain bootstrap over requests would claim too much.

    Args:
        groups: samples by process; each non-empty.
    """
    return percentile_interval(groups, 50.0, seed=seed)


def percentile_interval(groups: Sequence[Sequence[float]], q: float, *, seed: int = 0) -> Figure:
    """The `q`-th percentile over all samples with the two-level bootstrap of `median_interval`."""
    arrays = [checked(group, None)[0] for group in groups]
    if not arrays:
        raise ValueError("no samples")
    pooled = np.concatenate(arrays)
    sizes = np.array([len(array) for array in arrays])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    random = np.random.default_rng(seed)
    # Every drawn group gives as many samples as the largest has, so all resamples have one shape.
    groups_drawn = random.integers(len(arrays), size=(_RESAMPLES, len(arrays), 1))
    inside = random.random((_RESAMPLES, len(arrays), int(sizes.max()))) * sizes[groups_drawn]
    rows = starts[groups_drawn] + inside.astype(np.int64)
    draws = np.percentile(pooled[rows].reshape(_RESAMPLES, -1), q, axis=1)
    return _figure(float(np.percentile(pooled, q)), draws, len(pooled))


def interleaved_ratio(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Figure:
    """The median over rounds of `a[i] / b[i]`, with its interval.

    The two arms of a round run one after the other, so slow drift of the machine cancels in each ratio.

    Args:
        a, b: [rounds] positive, one figure per round (a median, say).
    """
    (x, _), (y, _) = checked(a, None), checked(b, None)
    _paired(x, y)
    if (y <= 0).any() or (x <= 0).any():
        raise ValueError("ratios need positive values")
    ratios = x / y
    draws = np.concatenate([np.median(ratios[rows], axis=1) for rows in _resamples(len(ratios), seed)])
    return _figure(float(np.median(ratios)), draws, len(ratios))


def percentile(values: Sequence[float], q: float) -> float:
    """The `q`-th percentile (0..100), linear between neighbours."""
    return float(np.percentile(checked(values, None)[0], q))


def time_saved(ratio: float) -> float:
    """The share of time a speed-up saves: 1 - 1/r. A 1.63x speed-up saves 38.6%."""
    if not ratio > 0:
        raise ValueError(f"a speed-up is positive, not {ratio}")
    return 1.0 - 1.0 / ratio


def _figure(value: float, draws: Floats, n: int) -> Figure:
    if n == 1 or not len(draws):
        return Figure(value, value, value, n)
    low, high = (float(bound) for bound in np.percentile(draws, [2.5, 97.5]))
    return Figure(value, min(low, value), max(high, value), n)


def _resamples(n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Index arrays [some, n], `_RESAMPLES` rows in all: a large n is done in pieces."""
    random = np.random.default_rng(seed)
    step = max(1, _CELLS // n)
    for start in range(0, _RESAMPLES, step):
        yield random.integers(n, size=(min(step, _RESAMPLES - start), n))


def _weighted(x: Floats, w: Floats, rows: NDArray[np.int64]) -> Floats:
    weight = w[rows]
    total = weight.sum(axis=1)
    some = total > 0  # a resample of weightless rows only says nothing
    return np.asarray((x[rows] * weight).sum(axis=1)[some] / total[some], dtype=np.float64)


def checked(values: Sequence[float], weights: Sequence[float] | None) -> tuple[Floats, Floats]:
    """[n] values and their weights (1 where None).

    Raises:
        ValueError: no values, one that is not finite, or weights that weigh nothing.
    """
    x = np.asarray(values, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError("no values")
    if w.shape != x.shape:
        raise ValueError(f"{len(w)} weights for {len(x)} values")
    if not np.isfinite(x).all():
        raise ValueError("values that are not finite")
    if (w < 0).any() or not math.isfinite(w.sum()) or w.sum() <= 0:
        raise ValueError("weights are non-negative with a positive, finite sum")
    return x, w


def _paired(x: Floats, y: Floats) -> None:
    if x.shape != y.shape:
        raise ValueError(f"paired values differ in number: {len(x)} and {len(y)}")
