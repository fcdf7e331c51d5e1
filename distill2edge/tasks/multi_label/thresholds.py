"""The probability above which a text has a label, chosen for each label on held-out texts. Pure.

For F1 the best threshold of a calibrated model is half of the best F1 (Lipton et al. 2014), so .5 is too high for every
label that is hard to find.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill2edge.models.two_events import THRESHOLD

Floats = NDArray[np.float64]
LEAST = 5
"""Texts that must have a label, and lack it, before a threshold other than .5 is chosen: of fewer it would be luck."""


def choose_thresholds(probability: Floats, truth: NDArray[np.bool_]) -> list[float]:
    """[C] the threshold of each label with the best F1 on these texts; .5 where it is as good as any.

    Args:
        probability: [n, C] of each label.
        truth: [n, C].
    """
    return [_choose(own, has) for own, has in zip(probability.T, truth.T, strict=True)]


def _choose(probability: Floats, has: NDArray[np.bool_]) -> float:
    if min(int(has.sum()), int((~has).sum())) < LEAST:
        return THRESHOLD
    order = np.argsort(-probability, kind="stable")
    sure, hits = probability[order], np.cumsum(has[order])
    below = np.append(sure[1:], 0.0)
    cuts = np.flatnonzero(sure > below)  # said of so many and one more: between two that differ
    f1 = 2 * hits[cuts] / (cuts + 1 + has.sum())
    said = probability > THRESHOLD
    half = 2 * int((said & has).sum()) / int(said.sum() + has.sum())
    if not len(cuts) or half >= f1.max():
        return THRESHOLD
    middles = (sure[cuts] + below[cuts]) / 2
    best = middles[f1 == f1.max()]
    return float(best[np.abs(best - THRESHOLD).argmin()])
