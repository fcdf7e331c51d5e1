"""The paired comparison that recipe benchmarks report: over items, pooled over seeds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from common import paired


def test_the_difference_is_of_the_means_and_a_shared_difficulty_cancels() -> None:
    random = np.random.default_rng(0)
    hard = random.random(400)
    b = [(hard > 0.3).astype(float).tolist() for _ in range(3)]
    a = [(hard > 0.25).astype(float).tolist() for _ in range(3)]
    figure = paired(a, b)
    assert figure.value == pytest.approx(np.mean(a) - np.mean(b))
    assert 0 < figure.low < figure.value < figure.high
    assert figure.n == 400


def test_repeating_a_seed_makes_the_interval_no_narrower() -> None:
    random = np.random.default_rng(1)
    a, b = (random.integers(0, 2, 200).astype(float).tolist() for _ in range(2))
    assert paired([a] * 5, [b] * 5) == paired([a], [b])


def test_a_ratio() -> None:
    assert paired([[1.0, 1.0]], [[1.0, 0.0]], ratio=True).value == 2.0
    with pytest.raises(ValueError, match="no ratio"):
        paired([[1.0]], [[0.0]], ratio=True)


def test_arms_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds"):
        paired([[1.0, 0.0]], [[1.0]])
