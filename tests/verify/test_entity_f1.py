"""Entity F1 against cases worked by hand, and its intervals against a bootstrap of the ratio itself."""

from __future__ import annotations

import numpy as np
import pytest

from distill2edge.models.tags import Entity
from distill2edge.util.bootstrap import mean_interval
from distill2edge.verify import entity_f1
from distill2edge.verify.entity_f1 import Counts

TRUE = [Entity(0, 2, "PER"), Entity(5, 6, "LOC")]


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        (TRUE, (2, 2, 2)),
        ([], (0, 0, 2)),
        ([Entity(0, 2, "LOC"), Entity(5, 6, "LOC")], (1, 2, 2)),  # another type
        ([Entity(0, 1, "PER"), Entity(1, 2, "PER"), Entity(5, 6, "LOC")], (1, 3, 2)),  # split in two
        ([Entity(0, 6, "PER")], (0, 1, 2)),  # too long
    ],
)
def test_a_hit_has_the_type_and_both_bounds(found: list[Entity], counts: tuple[int, int, int]) -> None:
    assert entity_f1.counts_of(found, TRUE) == counts


def test_figures_of_all_rows_together() -> None:
    # hits 3, found 5, wanted 4: precision .6, recall .75, F1 = 2 x 3 / 9
    rows = [Counts(2, 3, 2), Counts(1, 1, 2), Counts(0, 1, 0), Counts(0, 0, 0)]
    assert np.mean(entity_f1.row_values(rows)) == pytest.approx(6 / 9)
    f1 = entity_f1.f1(rows, 0)
    precision = entity_f1.share([row.hits for row in rows], [row.found for row in rows], 0)
    recall = entity_f1.share([row.hits for row in rows], [row.wanted for row in rows], 0)
    assert f1 is not None
    assert precision is not None
    assert recall is not None
    assert (f1.value, precision.value, recall.value) == (pytest.approx(6 / 9), 0.6, 0.75)
    assert f1.value == pytest.approx(2 * 0.6 * 0.75 / 1.35)


def test_of_one_type() -> None:
    assert entity_f1.counts_of([Entity(0, 2, "PER")], TRUE, "LOC") == (0, 0, 1)


def test_nothing_at_all_is_no_figure() -> None:
    assert entity_f1.row_values([Counts(0, 0, 0)]) == [0.0]
    assert entity_f1.f1([Counts(0, 0, 0)], 0) is None


def test_resampled_values_spread_as_the_ratio_does() -> None:
    random = np.random.default_rng(0)
    rows = [Counts(int(random.binomial(n, 0.8)), n, n) for n in random.integers(0, 5, 400).tolist()]
    linear, exact = mean_interval(entity_f1.row_values(rows), seed=1), entity_f1.f1(rows, 1)
    assert exact is not None
    assert linear.value == pytest.approx(exact.value)
    assert (linear.low, linear.high) == pytest.approx((exact.low, exact.high), abs=0.004)
