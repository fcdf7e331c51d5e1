"""Cosines of pairs of texts held against the scores that people gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distill2edge.verify.gold_pairs import add_to, cosines


def pairs_at(angles: list[float]) -> np.ndarray:
    """[2n, 2]: pairs of vectors at some angles, of lengths that must not matter."""
    return np.array([side for angle in angles for side in ((2.0, 0.0), (3 * np.cos(angle), 3 * np.sin(angle)))])


def test_cosines_do_not_see_lengths() -> None:
    np.testing.assert_allclose(cosines(pairs_at([0.0, np.pi / 3, np.pi])), [1, 0.5, -1], atol=1e-6)


def test_a_model_is_held_against_the_scores_and_against_its_teacher_on_the_same_pairs() -> None:
    gold = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    angles = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    swapped = [angles[1], angles[0], *angles[2:]]
    entries: list[dict[str, Any]] = [{"id": name} for name in ("teacher", "student", "student/onnx:int8")]
    add_to(entries, {"teacher": pairs_at(angles), "student": pairs_at(swapped)}, gold, seed=0)
    teacher, student, crashed = entries
    assert teacher["gold_pairs"]["spearman"]["value"] == pytest.approx(1)
    assert teacher["gold_pairs"]["against_teacher"] is None
    assert student["gold_pairs"]["spearman"]["value"] == pytest.approx(1 - 6 * 2 / (6 * 35))  # by the ranks' formula
    assert student["gold_pairs"]["against_teacher"]["value"] == pytest.approx(-12 / 210)
    assert "gold_pairs" not in crashed, "a model that did not run has no figures"
