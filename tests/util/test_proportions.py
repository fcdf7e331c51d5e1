"""Intervals of shares: they hold their value, have width however perfect the rows, and cover the truth."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from distill2edge.util.bootstrap import mean_interval, ratio_interval
from distill2edge.util.proportions import proportion_difference, proportion_interval, proportion_ratio
from distill2edge.verify.metrics import METRICS
from distill2edge.verify.trivial_baselines import TrivialBaseline

rows = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60)
pairs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)
shares = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=40)


@given(rows)
def test_a_share_lies_in_its_interval_which_has_width_and_stays_within_0_and_1(right: list[float]) -> None:
    figure = proportion_interval(right)
    assert figure.value == pytest.approx(np.mean(right))
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.high - figure.low > 0
    wider = proportion_interval(right * 4)
    assert wider.high - wider.low < figure.high - figure.low


@given(rows)
def test_rows_of_one_outcome_have_wilsons_interval(right: list[float]) -> None:
    expected = binomtest(int(sum(right)), len(right)).proportion_ci(method="wilson")
    for weights in (None, [1.0] * len(right)):
        figure = proportion_interval(right, weights)
        assert (figure.low, figure.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


@given(shares)
def test_rows_of_several_outcomes_count_as_no_more_than_those_and_no_fewer_than_rows(drawn: list[Any]) -> None:
    counts = [float(n) for _, n in drawn]
    values = [min(hits, n) / n for hits, n in drawn]
    figure = proportion_interval(values, counts)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.low < figure.high
    pooled = proportion_interval(
        [1.0] * round(sum(counts) * figure.value) + [0.0] * round(sum(counts) * (1 - figure.value))
    )
    assert figure.high - figure.low >= pooled.high - pooled.low - 1e-9
    assert figure.n == len(drawn)


def test_one_position_that_differs_does_not_make_the_rest_surer() -> None:
    counts = [17.0] * 116
    perfect, one = proportion_interval([1.0] * 116, counts), proportion_interval([16 / 17] + [1.0] * 115, counts)
    assert perfect.low == pytest.approx(proportion_interval([1.0] * 116).low)  # as many as rows
    assert one.low > perfect.low
    spread = np.random.default_rng(0).binomial(17, 0.97, size=116) / 17
    bootstrap, figure = mean_interval(spread.tolist(), counts), proportion_interval(spread.tolist(), counts)
    assert figure.high - figure.low == pytest.approx(bootstrap.high - bootstrap.low, rel=0.35)


@given(pairs)
def test_a_ratio_and_a_difference_lie_in_their_intervals_which_have_width(drawn: list[tuple[float, float]]) -> None:
    mine, theirs = map(list, zip(*drawn, strict=True))
    difference = proportion_difference(mine, theirs)
    assert -1 <= difference.low <= difference.value <= difference.high <= 1
    assert difference.low < difference.high
    ratio = proportion_ratio(mine, theirs)
    if not any(theirs):
        assert ratio is None
        return
    assert ratio is not None
    assert 0 <= ratio.low <= ratio.value <= ratio.high < float("inf")
    assert ratio.low < ratio.high
    for single, often in (
        (difference, proportion_difference(mine * 4, theirs * 4)),
        (ratio, proportion_ratio(mine * 4, theirs * 4)),
    ):
        assert often is not None
        assert often.high - often.low < single.high - single.low
    same = proportion_ratio(mine, theirs, outcomes=1)
    seeds = proportion_ratio(mine, theirs, outcomes=3)  # three seeds that never differ are worth one
    assert same is not None
    assert seeds is not None
    assert seeds.low == pytest.approx(same.low)


def test_the_paired_intervals_are_the_published_ones() -> None:
    # Airway hyper-responsiveness before and after transplantation, 1, 1, 7, 12: Fagerland (2014), tables IV and VI.
    before, after = [1.0, 1.0] + [0.0] * 19, [1.0, 0.0] + [1.0] * 7 + [0.0] * 12
    ratio, difference = proportion_ratio(before, after), proportion_difference(before, after)
    assert ratio is not None
    assert (ratio.low, ratio.high) == (pytest.approx(0.068, abs=5e-4), pytest.approx(0.923, abs=5e-4))
    assert (difference.low, difference.high) == (pytest.approx(-0.508, abs=5e-4), pytest.approx(-0.013, abs=5e-4))


@pytest.mark.parametrize("n", [5, 20, 116])
def test_a_share_is_covered_as_often_as_said(n: int) -> None:
    ends = [proportion_interval([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)]
    inside = []
    for truth in np.linspace(0.005, 0.995, 199):
        held = [k for k, figure in enumerate(ends) if figure.low <= truth <= figure.high]
        inside.append(float(binom.pmf(held, n, truth).sum()))
    assert np.mean(inside) >= 0.95
    assert min(inside) >= 0.83  # as known of Wilson's; a bootstrap falls to nothing there
    assert all(a.low < b.low and a.high < b.high for a, b in pairwise(ends[1:-1]))


@pytest.mark.parametrize(
    ("n", "right", "flips", "seeds"), [(116, 0.98, 0.005, 1), (30, 0.8, 0.1, 1), (116, 0.9, 0.05, 3)]
)
def test_what_is_kept_is_covered_as_often_as_said(n: int, right: float, flips: float, seeds: int) -> None:
    random = np.random.default_rng(n)
    truth = (right * (1 - flips) + (1 - right) * flips) / right
    wilson = bootstrap = 0
    for seed in range(400):
        theirs = (random.random(n) < right).astype(float)
        runs = [np.where(random.random(n) < flips, 1 - theirs, theirs) for _ in range(seeds)]
        mine = np.mean(runs, axis=0)
        found = proportion_ratio(mine, theirs, seeds)
        assert found is not None
        wilson += found.low <= truth <= found.high
        if flips < 0.01 and seed < 100:
            other = ratio_interval(mine, theirs, seed=seed)
            assert other is not None
            bootstrap += other.low <= truth <= other.high
    assert wilson / 400 >= 0.93
    if flips < 0.01:
        assert bootstrap < 60  # of 100: what stood here before


def test_a_perfect_student_is_not_certain() -> None:
    perfect = [1.0] * 116
    score = METRICS["accuracy"].figure(perfect, perfect, 0)
    assert (score.value, round(score.low, 3), score.high) == (1.0, 0.968, 1.0)
    kept = METRICS["exact_match"].ratio(perfect, perfect, perfect, 0)
    assert kept is not None
    assert (kept.value, round(kept.low, 3), round(kept.high, 3)) == (1.0, 0.984, 1.017)
    entry = METRICS["accuracy"].baseline_entry(TrivialBaseline("always 'pos'", perfect), perfect, 0)
    assert entry["score"]["low"] < 1


def test_few_rows_do_not_beat_what_needs_no_model() -> None:
    ones = [1.0] * 4
    assert not METRICS["accuracy"].is_above(ones, [0.0, 0.0, 0.0, 1.0], ones, 0)  # p = 1/4 by McNemar's exact test
    assert METRICS["accuracy"].is_above([1.0] * 40, [0.0, 0.0, 0.0, 1.0] * 10, [1.0] * 40, 0)


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        proportion_interval([0.5, 1.1])
    with pytest.raises(ValueError, match="differ in number"):
        proportion_ratio([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="no values"):
        proportion_difference([], [])
