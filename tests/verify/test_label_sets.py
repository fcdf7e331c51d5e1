"""Scores of sets of labels and of steps of a scale, on cases worked by hand and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.models.two_events import probabilities, two_events
from distill2edge.util.bootstrap import mean_interval
from distill2edge.verify.label_sets import (
    calibration_error,
    commonest_set,
    constant_set,
    exact,
    label_f1,
    macro_f1,
    micro_f1,
)
from distill2edge.verify.metrics import METRICS
from distill2edge.verify.scores import log_softmax
from distill2edge.verify.steps import steps_off, weighted_kappa

# Three texts, three labels: 2 hits, 1 said too much, 1 missed; the last label never occurs.
TRUTH = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
SAID = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=bool)


def test_a_case_worked_by_hand() -> None:
    assert np.mean(micro_f1(SAID, TRUTH)) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert label_f1(SAID, TRUTH) == [1.0, 0.0, None]
    assert macro_f1(SAID, TRUTH) == 0.5
    assert exact(SAID, TRUTH) == [0.0, 0.0, 1.0]
    # 2 of 3 labels of each bin: .9 said of 3, of which 2 are there; .1 said of 6, of which 1 is there.
    share = np.where(SAID, 0.9, 0.1)
    assert calibration_error(share, TRUTH) == pytest.approx((abs(2 - 2.7) + abs(1 - 0.6)) / 9)


def test_texts_without_any_label_are_right_where_none_is_said() -> None:
    none = np.zeros((4, 2), dtype=bool)
    assert micro_f1(none, none) == [1.0] * 4
    assert macro_f1(none, none) == 1.0
    one = none.copy()
    one[0, 0] = True
    assert np.mean(micro_f1(one, none)) == 0.0


@given(st.integers(0, 10_000))
def test_it_is_scikit_learn_s(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    said, truth = random.random((2, 12, 3)) < random.random()
    said[0, 0] = truth[0, 1] = True
    assert np.mean(micro_f1(said, truth)) == pytest.approx(metrics.f1_score(truth, said, average="micro"))
    each = metrics.f1_score(truth, said, average=None, zero_division=np.nan)
    assert [math.nan if own is None else own for own in label_f1(said, truth)] == pytest.approx(each, nan_ok=True)
    assert np.mean(exact(said, truth)) == pytest.approx(metrics.accuracy_score(truth, said))


def test_the_interval_is_that_of_the_ratio_over_resampled_texts() -> None:
    random = np.random.default_rng(3)
    truth = random.random((300, 4)) < 0.3
    said = truth ^ (random.random((300, 4)) < 0.1)
    found = mean_interval(micro_f1(said, truth))
    hits, either = 2 * (said & truth).sum(1), said.sum(1) + truth.sum(1)
    draws = [hits[at].sum() / either[at].sum() for at in random.integers(0, 300, (4000, 300))]
    low, high = np.percentile(draws, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)


def test_the_baseline_is_the_best_of_all_constant_sets() -> None:
    random = np.random.default_rng(5)
    truth = random.random((60, 4)) < np.array([0.6, 0.1, 0.5, 0.05])
    baseline = constant_set(truth, "abcd")
    every = []
    for number in range(1, 16):
        said = np.zeros_like(truth)
        said[:, [bit for bit in range(4) if number >> bit & 1]] = True
        every.append(np.mean(micro_f1(said, truth)))
    assert np.mean(baseline.score) == pytest.approx(max(every))
    assert baseline.name == "always {'a', 'c'}, the constant set with the best F1"
    assert dict(baseline.classes) == dict(zip("abcd", truth.sum(0).tolist(), strict=True))
    assert METRICS["micro_f1"].is_above(micro_f1(truth, truth), baseline.score, [1.0] * 60, 0)
    assert not METRICS["micro_f1"].is_above(baseline.score, baseline.score, [1.0] * 60, 0)


def test_the_commonest_set_may_be_the_empty_one() -> None:
    truth = np.array([[0, 0], [0, 0], [1, 0]], dtype=bool)
    assert commonest_set(truth, "ab") == ("{}", [1.0, 1.0, 0.0])


def test_two_events_are_a_sigmoid_even_far_out() -> None:
    logits = np.array([[0.0, 2.0, -800.0, 800.0]])
    share = np.exp(log_softmax(two_events(logits))[..., 1])
    assert share[0, :2] == pytest.approx([0.5, 1 / (1 + math.exp(-2))])
    assert share[0, 2:].tolist() == [0.0, 1.0]
    assert probabilities(logits)[0] == pytest.approx(share[0], abs=1e-7)


# --- steps of a scale ---------------------------------------------------------


def test_steps_and_kappa_by_hand() -> None:
    truth, said = np.array([0, 1, 2, 2]), np.array([0, 2, 2, 0])
    assert steps_off(said, truth) == [0.0, 1.0, 0.0, 2.0]
    # w = squares of steps. Observed: 1 (1 -> 2) and 4 (2 -> 0). Expected: rows 1,1,2 and columns 2,0,2 over 4:
    # (0,2): 4 x 1 x 2 / 4; (1,0) and (1,2): 1 x 1 x 2 / 4 each; (2,0): 4 x 2 x 2 / 4.
    assert weighted_kappa(said, truth, 3) == pytest.approx(1 - 5 / (2 + 0.5 + 0.5 + 4))
    assert weighted_kappa(truth, truth, 3) == 1.0
    assert weighted_kappa(np.zeros(4, int), np.zeros(4, int), 3) is None


@given(st.integers(0, 10_000))
def test_kappa_is_scikit_learn_s(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    said, truth = np.random.default_rng(seed).integers(0, 5, (2, 30))
    wanted = metrics.cohen_kappa_score(truth, said, weights="quadratic", labels=range(5))
    assert weighted_kappa(said, truth, 5) == pytest.approx(wanted)
