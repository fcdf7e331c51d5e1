"""Correlations as means over rows: the value is that of a plain calculation, the interval that of resampled rows."""

from __future__ import annotations

import numpy as np
import pytest

from distill2edge.util.bootstrap import mean_interval
from distill2edge.verify.correlation import pearson, spearman


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks, by comparing each with each."""
    return (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("noise", [0.3, 1.5])
def test_value_and_interval_are_those_of_resampled_rows(ties: bool, noise: float) -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=300)
    b = a + noise * random.normal(size=300)
    b = np.round(b) if ties else b
    of = {
        spearman: lambda x, y: float(np.corrcoef(ranks(x), ranks(y))[0, 1]),
        pearson: lambda x, y: float(np.corrcoef(x, y)[0, 1]),
    }
    for ours, plain in of.items():
        figure = mean_interval(ours(a, b), seed=0)
        assert figure.value == pytest.approx(plain(a, b), abs=1e-9)
        draws = [plain(a[rows], b[rows]) for rows in random.integers(0, 300, (400, 300))]
        low, high = np.percentile(draws, [2.5, 97.5])
        assert figure.high - figure.low == pytest.approx(high - low, rel=0.2)


def test_numbers_that_are_all_one_have_no_order() -> None:
    same, other = np.ones(5), np.arange(5.0)
    assert spearman(same, other) == pearson(other, same) == [0.0] * 5
