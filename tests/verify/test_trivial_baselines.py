"""What needs no model: the largest class, the commonest answer, a unigram model; and which scores mean something."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from distill2edge.data.examples import Encoded
from distill2edge.recipe.schema import Verify
from distill2edge.verify.metrics import METRICS
from distill2edge.verify.trivial_baselines import balanced_accuracy, commonest_answer, largest_class, unigram
from distill2edge.verify.warnings import warnings_of

NAMES = ["neg", "pos"]


def test_the_largest_class_is_named_with_its_score_and_chance() -> None:
    baseline = largest_class([0, 1, 1, 1], NAMES)
    assert baseline.name == "always 'pos', the largest class"
    assert baseline.score == [0, 1, 1, 1]
    assert baseline.classes == (("neg", 1), ("pos", 3))
    document = METRICS["accuracy"].baseline_entry(baseline, [1.0] * 4, 0)
    assert document["chance"] == 0.5
    assert document["score"]["value"] == 0.75


def test_the_commonest_answer() -> None:
    assert commonest_answer([[5, 6], [7], [5, 6]]).score == [1, 0, 1]


def test_the_unigram_model_is_that_of_brute_force() -> None:
    rows = [Encoded(str(n), [1, *ids], [False, *([True] * len(ids))]) for n, ids in enumerate([[4, 4, 5], [4], [6, 5]])]
    baseline = unigram(rows)
    # Of the second row's only token: three times two others' 4, one of 5, of 6, and of 5; plus one for each of 4, 5, 6.
    assert baseline.score[1] == pytest.approx(math.log((2 + 1) / (5 + 3)))
    assert baseline.score[0] == pytest.approx(2 * math.log((1 + 1) / (3 + 3)) + math.log((1 + 1) / (3 + 3)))
    units = [float(sum(row.mask)) for row in rows]
    value = METRICS["neg_log_likelihood"].baseline_entry(baseline, units, 0)["score"]["value"]
    assert value == pytest.approx(math.exp(sum(baseline.score) / 6))


def test_a_score_is_above_only_by_more_than_noise() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.5).astype(int)
    baseline = largest_class(labels.tolist(), NAMES).score
    ones = [1.0] * 500

    def right(share: float) -> list[float]:
        return (rng.random(500) < share).astype(float).tolist()

    assert METRICS["accuracy"].is_above(right(0.9), baseline, ones, 0)
    assert not METRICS["accuracy"].is_above(right(0.52), baseline, ones, 0)
    assert not METRICS["accuracy"].is_above(right(0.2), baseline, ones, 0)
    assert not METRICS["accuracy"].is_above(baseline, baseline, ones, 0)


def test_balanced_accuracy_weighs_classes_alike() -> None:
    assert balanced_accuracy([1, 1, 1, 0], [0, 0, 0, 1]) == 0.5
    assert balanced_accuracy([1, 1], [1, 1]) == 1


def _models(teacher: bool | None, student: bool) -> list[dict[str, Any]]:
    def one(name: str, role: str, scheme: str, above: bool | None) -> dict[str, Any]:
        return {"id": name, "role": role, "scheme": scheme, "error": None, "above_baseline": above, "kl_student": None}

    found = [one("student/gguf:Q8_0", "student", "gguf:Q8_0", student)]
    return found if teacher is None else [one("teacher", "teacher", "torch:fp32", teacher), *found]


@pytest.mark.parametrize(
    ("labels", "teacher", "student", "said", "headline"),
    [
        ([0] * 30 + [1] * 30, True, True, None, True),
        ([0] * 12, True, True, "class 'pos' never occurs in the 12 held-out rows", False),
        ([0] * 59 + [1], True, True, "class 'pos' has 1 of the 60 held-out rows", True),
        ([0] * 492 + [1] * 8, True, True, "class 'pos' has 8 of the 500 held-out rows", True),
        ([0] * 30 + [1] * 30, False, False, "the teacher is within noise of a baseline without a model", False),
        ([0] * 30 + [1] * 30, True, False, "student/gguf:Q8_0 is within noise of a baseline without a model", True),
        ([0] * 30 + [1] * 30, None, False, "student/gguf:Q8_0 is within noise of a baseline without a model", True),
    ],
)
def test_what_makes_a_score_worthless_is_a_warning(
    labels: list[int], teacher: bool | None, student: bool, said: str | None, headline: bool
) -> None:
    baseline = largest_class(labels, NAMES)
    found = warnings_of(_models(teacher, student), Verify(), baseline, len(labels), "text")
    assert all(warning["headline"] for warning in found) == headline
    assert [warning["text"].startswith(said or "") for warning in found] == ([True] if said else [])


def test_many_classes_are_one_warning_each_way() -> None:
    names = [f"intent {n}" for n in range(77)]
    labels = [n for n in range(40) for _ in range(6)] + list(range(40, 60))
    texts = [w["text"] for w in warnings_of(_models(True, True), Verify(), largest_class(labels, names), 260, "text")]
    assert len(texts) == 2
    assert texts[0].startswith(
        "17 classes ('intent 60', 'intent 61', 'intent 62', 'intent 63', 'intent 64' and 12 more)"
    )
    assert texts[1].startswith("20 classes are small: 'intent 40' has 1, 'intent 41' has 1")
    assert all(len(text) < 300 for text in texts)
