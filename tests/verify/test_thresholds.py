"""Thresholds of labels: the best F1 there is, kept with the model; verify, library and predict.py say the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_bert

from distill2edge.data.examples import Encoded
from distill2edge.data.model_inputs import InputForm, form_of, parse_form
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.handover import predict_onnx
from distill2edge.handover.write import hand_over
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.model_file import Encodings, ModelFile, dense
from distill2edge.models.two_events import FIELD, thresholds_in
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.schema import Verify
from distill2edge.tasks.multi_label.thresholds import LEAST, choose_thresholds
from distill2edge.tasks.multi_label.work import WORK
from distill2edge.util.progress import SilentProgress
from distill2edge.verify import multi_label
from distill2edge.verify.label_sets import label_f1

RECIPE = """\
name: a
task: classification
teacher: {model: o/t, fit: {}}
signal: {kind: labels}
data: {source: a.csv, template: plain, choices: [x, y, z], multi: true}
student: {init: {from: teacher, layers: 1}, thresholds: f1}
bench: {workloads: [task]}
export: [onnx:int8]
"""


def f1(probability: np.ndarray, has: np.ndarray, threshold: float) -> float:
    (found,) = label_f1((probability > threshold)[:, None], has[:, None])
    return found or 0.0


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2 * LEAST, max_size=40))
@settings(max_examples=200, deadline=None)
def test_no_threshold_has_a_better_f1(pairs: list[tuple[int, bool]]) -> None:
    probability, has = np.array([at / 20 for at, _ in pairs]), np.array([on for _, on in pairs])
    (chosen,) = choose_thresholds(probability[:, None], has[:, None])
    assert 0 < chosen < 1
    if min(has.sum(), (~has).sum()) < LEAST:
        assert chosen == 0.5
        return
    best = max(f1(probability, has, at / 40) for at in range(40))
    assert f1(probability, has, chosen) == pytest.approx(best)
    if f1(probability, has, 0.5) == pytest.approx(best):
        assert chosen == 0.5


def test_a_model_keeps_what_was_chosen_and_verify_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_bert(tmp_path / "model", labels=("x", "y", "z"))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    recipe = parse_recipe(RECIPE, "a.yaml")
    rows = [Encoded(f"{n}", [2, 5 + n, 3], [], labels=(0,) if n % 2 else (1,)) for n in range(12)]
    monkeypatch.setattr(WORK, "encoded", lambda *args: rows)
    chosen = WORK._thresholds(recipe, tmp_path, tmp_path / "model")["thresholds"]
    assert list(chosen) == ["x", "y", "z"]
    assert chosen["z"] == 0.5, "no text has it"
    assert chosen != dict.fromkeys("xyz", 0.5)
    stated = json.loads((tmp_path / "model" / "config.json").read_text())
    assert thresholds_in(stated) == tuple(chosen.values())
    form = form_of(recipe, tmp_path / "model")
    assert form.thresholds == tuple(chosen.values())
    assert parse_form(form.dumps(), "x") == form
    file = tmp_path / "file"
    file.mkdir()
    (file / "export.json").write_text(json.dumps({"meta": {"input": form.dumps()}}))
    shipped = ModelFile("student/onnx:int8", "student", "onnx:int8", "onnxruntime", file, 1, 1)
    for model in (dense("student", tmp_path / "model", 1), shipped):
        assert multi_label._limits(model, 3).tolist() == list(chosen.values())
    assert WORK._thresholds(parse_recipe(RECIPE, "a.yaml", ("student.thresholds=half",)), tmp_path, tmp_path) == {}


def test_every_program_says_the_same_set(tmp_path: Path) -> None:
    from distill2edge.running.answering import OpenModel

    limits, logits = [0.2, 0.9, 0.5], np.array([-1.0, 1.0, 0.1])  # probabilities .269, .731, .525
    found = predict_onnx.above(["x", "y", "z"], logits, limits)
    assert [name for name, _ in found] == ["z", "x"]
    runtime: Any = SimpleNamespace(labels=["x", "y", "z"])
    model = OpenModel(runtime, None, InputForm("multi-label", thresholds=tuple(limits)), frozenset(), "here")
    object.__setattr__(model, "labels", lambda text, pair=None: [("y", 0.731), ("z", 0.525), ("x", 0.269)])
    assert [name for name, _ in model.chosen("text")] == ["z", "x"]
    events = np.log(np.array([[[1 - p, p] for p in (0.269, 0.731, 0.525)]]))
    assert multi_label._said(events, np.array(limits)).tolist() == [[True, False, True]]


@pytest.mark.parametrize("wrong", [[0.5], [0.5, 0.5, 1.0], [0.5, "a", 0.5], "no"])
def test_what_is_no_threshold_is_not_read(wrong: Any) -> None:
    assert thresholds_in({FIELD: wrong, "id2label": {"0": "x", "1": "y", "2": "z"}}) == ()
    if wrong != [0.5]:
        with pytest.raises(UserError, match="no input form"):
            parse_form(json.dumps({"kind": "multi-label", "thresholds": wrong}), "x")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [("data.multi=false", "data.multi is not set"), ("data.splits={validation: 0}", "raise data.splits.validation")],
)
def test_where_there_is_nothing_to_choose_it_is_refused(change: str, wanted: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(RECIPE, "a.yaml", (change,))
    assert wanted in str(caught.value)


def test_each_model_is_scored_by_its_own(tmp_path: Path) -> None:
    for name, limits in (("teacher", [0.5, 0.5, 0.5]), ("student", [0.2, 0.5, 0.9])):
        (tmp_path / name).mkdir()
        config = {FIELD: limits, "id2label": dict(enumerate("xyz"))}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    models = [dense(role, tmp_path / role, 1) for role in ("teacher", "student")]  # type: ignore[arg-type]
    rows = [Encoded(f"{n}", [1], [False], labels=(0,)) for n in range(6)]
    same = {"logits": [[-1.0, -2.0, 1.0]] * 6}  # probabilities .27, .12, .73
    found = multi_label._document(
        models, {"teacher": same, "student": same}, Encodings(rows, None, "v"), Verify(), "xyz", 0, None
    )  # type: ignore[call-arg]
    teacher, student = found["models"]
    assert (teacher["score"]["value"], student["score"]["value"]) == (0, 1)
    assert student["thresholds"] == {"x": 0.2, "y": 0.5, "z": 0.9}
    assert student["kl_teacher"]["value"] == pytest.approx(0, abs=1e-7)
    assert student["top1_teacher"]["value"] == 0


@pytest.mark.parametrize("limits", [(), (0.25, 0.5, 0.75)])
def test_what_is_handed_over_says_them(tmp_path: Path, limits: tuple[float, ...]) -> None:
    tiny_bert(tmp_path / "model", labels=("x", "y", "z"))
    form = InputForm("multi-label", max_length=32, thresholds=limits)
    facts = {
        "format": "onnx",
        "scheme": "onnx:int8",
        "files": ["model.onnx"],
        "size_bytes": 1,
        "graphs": ["model.onnx"],
        "data": [],
    }
    (tmp_path / "out").mkdir()
    tokenizer = load_tokenizer(tmp_path / "model")
    hand_over(tmp_path / "out", form, tokenizer, tmp_path / "model", facts, "name", SilentProgress())
    use, document = (tmp_path / "out" / "USE.md").read_text(), json.loads((tmp_path / "out" / "input.json").read_text())
    assert document.get("thresholds", []) == list(limits)
    assert document["threshold"] == 0.5
    assert ("- `x`: above 0.250\n- `y`: above 0.500\n" if limits else "- `x`\n- `y`\n") in use
    assert ("above its threshold" if limits else "above 0.5") in use
