"""nDCG and MRR of each query: against scikit-learn and plain calculations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.data.examples import Encoded
from distill2edge.errors import RecipeErrors
from distill2edge.models.model_file import Encodings, dense
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.schema import Verify
from distill2edge.verify.gates import apply_gates
from distill2edge.verify.ranking import ndcg, queries_of, reciprocal_rank

TEXTS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=2, max_size=14).filter(
    lambda pairs: any(gain for _, gain in pairs)
)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    score, gain = np.array(pairs, dtype=float).T
    return score, gain


@given(TEXTS, st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_ndcg_is_that_of_scikit_learn(pairs: list[tuple[int, int]], top: int) -> None:
    from sklearn.metrics import ndcg_score

    score, gain = arrays(pairs)
    assert ndcg(score, gain, top) == pytest.approx(ndcg_score([gain], [score], k=top), abs=1e-12)


@given(TEXTS, st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_file_and_the_scale_of_scores_change_nothing(pairs: list[Any], random: Any) -> None:
    score, gain = arrays(pairs)
    turned = pairs.copy()
    random.shuffle(turned)
    other, theirs = arrays(turned)
    for measure in (ndcg, reciprocal_rank):
        value = measure(score, gain)
        assert value == pytest.approx(measure(np.exp(other), theirs))
        assert 0 <= value <= 1 + 1e-12
        assert measure(gain, gain) == pytest.approx(1)


def test_a_model_that_scores_all_alike_gains_nothing_by_the_order() -> None:
    same = np.zeros(4)
    assert reciprocal_rank(same, np.array([1.0, 0, 0, 0])) == 1 / 4
    assert ndcg(same, np.array([1.0, 0, 0, 0])) == ndcg(same, np.array([0, 0, 0, 1.0])) < 0.7


def test_queries_are_rows_that_share_the_first_text_and_differ_in_grade() -> None:
    grades = {"a": [0, 1, 0], "b": [1, 1], "c": [1], "": [0, 1]}  # b has no order, c one text, "" no pair
    rows = [Encoded(f"{query}{n}", [1], [False], query=query) for query, own in grades.items() for n in range(len(own))]
    flat = [grade for own in grades.values() for grade in own]
    queries = queries_of(rows, flat)
    assert queries is not None
    assert [group.tolist() for group in queries.groups] == [[0, 1, 2]]
    entries = [{"id": name} for name in ("teacher", "student", "crashed")]
    right, wrong = np.array(flat, dtype=float), 1 - np.array(flat, dtype=float)
    queries.add(entries, {"teacher": right, "student": wrong}, 0)
    assert [entry.get("mrr", {}).get("value") for entry in entries] == [1, 1 / 3, None]
    assert entries[1]["ndcg_retained"]["value"] == pytest.approx(0.5)  # 1 / log2(4)
    assert entries[0]["ndcg_retained"] is None
    assert queries_of(rows[3:], flat[3:]) is None


def test_grades_below_zero_count_from_the_lowest() -> None:
    rows = [Encoded(f"{n}", [1], [False], query="q") for n in range(3)]
    queries = queries_of(rows, [-5, -1, -3])
    assert queries is not None
    assert queries.gain.tolist() == [0, 4, 2]


@pytest.mark.parametrize(("value", "passed"), [(0.96, True), (0.9, False), (None, False)])
def test_the_gate(value: float | None, passed: bool) -> None:
    figure = None if value is None else {"value": value}
    model = {
        "id": "student/onnx:int8",
        "role": "student",
        "scheme": "onnx:int8",
        "error": None,
        "ndcg_retained": figure,
    }
    gates = apply_gates([model], Verify(min_ndcg_retained=0.95, max_kl=None))  # type: ignore[call-arg]
    assert [(gate.name, gate.passed) for gate in gates if gate.name != "loads"] == [("min_ndcg_retained", passed)]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [((), "data.pair is not set"), (("data.pair={{ b }}", "data.choices=[x, y, z]"), "classes that have an order")],
)
def test_what_has_no_order_is_refused(more: tuple[str, ...], wanted: str) -> None:
    text = (
        "name: a\ntask: classification\nteacher: {model: o/t, fit: {}}\nsignal: {kind: labels}\nexport: [onnx:int8]\n"
        "data: {source: a.csv, template: plain, choices: [x, y]}\nstudent: {init: {from: teacher, layers: 1}}\n"
        "bench: {workloads: [task]}\nverify: {min_ndcg_retained: 0.9}\n"
    )
    with pytest.raises(RecipeErrors, match=wanted):
        parse_recipe(text, "a.yaml", more)


def test_verify_puts_them_into_the_entries_and_the_report_shows_them(tmp_path: Path) -> None:
    """Of regressors and of classifiers of two classes; three classes without an order have none."""
    from distill2edge.report.sections.quality_section import ranking_table
    from distill2edge.verify import classifiers, regressors

    models = [dense(role, tmp_path, 1) for role in ("teacher", "student")]  # type: ignore[arg-type]
    rows = [Encoded(f"{n}", [1], [False], label=n % 2, query=f"{n // 4}") for n in range(12)]
    right, wrong = [[float(n % 2)] for n in range(12)], [[float(-(n % 2))] for n in range(12)]
    gold, spec = np.array([n % 2 for n in range(12)], dtype=float), Verify()  # type: ignore[call-arg]
    outcomes = {"teacher": {"logits": right}, "student": {"logits": wrong}}
    numbers = regressors._document(models, outcomes, gold, queries_of(rows, gold.tolist()), spec, 0)
    two = {name: {"logits": [[0.0, *one] for one in found["logits"]]} for name, found in outcomes.items()}
    three = {name: {"logits": [[*one, -9.0] for one in found["logits"]]} for name, found in two.items()}

    def classified(found: dict[str, Any], labels: str) -> dict[str, Any]:
        return classifiers._document(
            models, found, Encodings(rows, None, "v"), rows, spec, labels, 0, None, None, False
        )

    for document in (numbers, classified(two, "ab")):
        teacher, student = document["models"]
        assert teacher["ndcg"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 3}
        assert student["mrr"]["value"] == pytest.approx(1 / 3)
        assert student["ndcg_retained"]["value"] == student["ndcg"]["value"] < 0.7
        assert "ndcg" in document["definitions"]
        shown = ranking_table(document)
        assert shown is not None
        assert [len(line) for line in shown.rows] == [4, 4]
    assert all("ndcg" not in model for model in classified(three, "abc")["models"])
