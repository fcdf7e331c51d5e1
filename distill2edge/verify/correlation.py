"""Correlations as means over rows, so that what resamples rows serves them too. Pure.

The value of a row is the correlation plus the row's influence on it (Croux and Dehon 2010): the mean over rows is the
correlation itself, and its spread over resamples that of the correlation, to first order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def spearman(a: Floats, b: Floats) -> list[float]:
    """[n] values of rows, whose mean is Spearman's rank correlation of a [n] and b [n]; ties have their mean rank.

    Numbers that are all one have no order: their correlation is 0.
    """
    f, g = _levels(a), _levels(b)
    scale = float(f.std() * g.std())
    if scale == 0:
        return [0.0] * len(a)
    influence = f * g + _above(f, b) + _above(g, a)
    value = float(((f - f.mean()) * (g - g.mean())).mean()) / scale
    centred: Floats = value + (influence - influence.mean()) / scale
    return [float(each) for each in centred]


def pearson(a: Floats, b: Floats) -> list[float]:
    """As `spearman`, of Pearson's correlation."""
    if a.std() == 0 or b.std() == 0:
        return [0.0] * len(a)
    x, y = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    value = float((x * y).mean())
    found: Floats = value + x * y - value * (x * x + y * y) / 2
    return [float(each) for each in found]


def _levels(values: Floats) -> Floats:
    """[n] share of the numbers that are below each, half of those equal to it among them."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    levels: Floats = (np.cumsum(counts) - counts / 2)[place] / len(values)
    return levels


def _above(weights: Floats, values: Floats) -> Floats:
    """[n] mean over all rows of the weights [n] of those whose value is above each one's; of equal ones half."""
    _, place = np.unique(values, return_inverse=True)
    sums = np.bincount(place, weights=weights)
    above: Floats = (sums[::-1].cumsum()[::-1] - sums / 2)[place] / len(values)
    return above
