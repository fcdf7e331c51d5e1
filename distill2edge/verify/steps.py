"""Scores of classes that are steps of a scale. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.int64]


def steps_off(predicted: Classes, truth: Classes) -> list[float]:
    """[n] by how many steps each text is wrong."""
    return [float(value) for value in np.abs(predicted - truth)]


def weighted_kappa(predicted: Classes, truth: Classes, classes: int) -> float | None:
    """Quadratic weighted kappa (Cohen 1968): 1 - sum of w x observed / sum of w x expected, w the square of the steps.

    1 is full agreement, 0 what two raters with these shares of each class would have by chance; None where both say one
    and the same class of every text, so that chance is never wrong.
    """
    observed = np.zeros((classes, classes))
    np.add.at(observed, (truth, predicted), 1)
    expected = np.outer(observed.sum(1), observed.sum(0)) / len(truth)
    weights = np.square(np.subtract.outer(np.arange(classes), np.arange(classes)))
    chance = float((weights * expected).sum())
    return 1 - float((weights * observed).sum()) / chance if chance else None
