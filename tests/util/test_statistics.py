"""Intervals hold their value, cover the truth, pair what is paired, and follow monotone maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.util.bootstrap import (
    difference_interval,
    interleaved_ratio,
    mean_interval,
    median_interval,
    percentile,
    percentile_interval,
    ratio_interval,
    time_saved,
)

numbers = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)
positive = st.floats(1e-3, 1e3)


@given(numbers)
def test_a_mean_lies_in_its_interval_and_the_interval_in_the_data(values: list[float]) -> None:
    figure = mean_interval(values)
    assert figure.value == pytest.approx(np.mean(values))
    assert figure.low <= figure.value <= figure.high
    assert min(values) - 1e-9 <= figure.low
    assert figure.high <= max(values) + 1e-9
    assert figure.n == len(values)


@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 5)), min_size=1, max_size=20))
def test_weights_count_as_repetitions(pairs: list[tuple[float, int]]) -> None:
    values, weights = zip(*pairs, strict=True)
    repeated = [value for value, weight in pairs for _ in range(weight)]
    assert mean_interval(values, weights).value == pytest.approx(np.mean(repeated), abs=1e-9)


@given(numbers)
def test_the_difference_with_itself_is_exactly_nothing(values: list[float]) -> None:
    figure = difference_interval(values, values)
    assert (figure.value, figure.low, figure.high) == (0, 0, 0)


@given(st.lists(positive, min_size=1, max_size=30), st.floats(0.1, 10))
def test_a_constant_ratio_has_no_width(values: list[float], factor: float) -> None:
    scaled = [factor * value for value in values]
    for figure in (ratio_interval(scaled, values), interleaved_ratio(scaled, values)):
        assert figure is not None
        assert figure.value == pytest.approx(factor)
        assert figure.low == pytest.approx(factor)
        assert figure.high == pytest.approx(factor)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=15))
def test_an_interleaved_ratio_turned_over_is_its_inverse(pairs: list[tuple[float, float]]) -> None:
    if len(pairs) % 2 == 0:  # the median of an even number is a mean, which does not invert
        pairs = pairs[:-1] or pairs[:1]
    if len(pairs) % 2 == 0:
        return
    a, b = zip(*pairs, strict=True)
    assert interleaved_ratio(a, b).value == pytest.approx(1 / interleaved_ratio(b, a).value)


@given(st.lists(st.lists(positive, min_size=1, max_size=6), min_size=1, max_size=6))
def test_a_percentile_is_that_of_all_samples_and_lies_in_its_interval(groups: list[list[float]]) -> None:
    pooled = [value for group in groups for value in group]
    median = median_interval(groups)
    assert median.value == pytest.approx(np.median(pooled))
    assert median.low <= median.value <= median.high
    assert median.n == len(pooled)
    assert percentile_interval(groups, 95).value == pytest.approx(percentile(pooled, 95))


@given(numbers)
def test_a_falling_map_turns_the_interval_over(values: list[float]) -> None:
    figure = mean_interval(values).map(lambda x: math.exp(-x / 1e3))
    assert figure.low <= figure.value <= figure.high


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(100):
        figure = mean_interval(random.normal(3.0, 1.0, size=60), seed=seed)
        hits += figure.low <= 3.0 <= figure.high
    assert 88 <= hits <= 99


def test_pairing_narrows_a_ratio_of_alike_items() -> None:
    random = np.random.default_rng(2)
    teacher = random.uniform(0, 10, size=200)
    student = 0.9 * teacher + random.normal(0, 0.1, size=200)
    paired = ratio_interval(student, teacher)
    shuffled = ratio_interval(random.permutation(student), teacher)
    assert paired is not None
    assert shuffled is not None
    assert paired.high - paired.low < (shuffled.high - shuffled.low) / 5


def test_luck_of_a_process_widens_the_interval_beyond_that_of_its_requests() -> None:
    groups = [[1.0, 1.01, 0.99] * 5, [2.0, 2.01, 1.99] * 5, [3.0, 3.01, 2.99] * 5]
    by_process = median_interval(groups)
    by_request = median_interval([[value for group in groups for value in group]])
    assert by_process.high - by_process.low > by_request.high - by_request.low


def test_a_teacher_that_scores_nothing_has_no_ratio() -> None:
    assert ratio_interval([1.0, 0.0], [0.0, 0.0]) is None


def test_time_saved_beside_the_speed_up() -> None:
    assert time_saved(668 / 410) == pytest.approx(0.386, abs=5e-4)  # DistilBERT: 1.63x is 38.6% less time
    with pytest.raises(ValueError, match="positive"):
        time_saved(0)


@pytest.mark.parametrize("bad", [[], [math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no values|not finite"):
        mean_interval(bad)


def test_unequal_arms_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        interleaved_ratio([1.0, 2.0], [1.0])
