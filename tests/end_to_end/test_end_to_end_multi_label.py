"""Sets of labels the whole way on tiny random encoders: recipe in; files, report and exit code out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny import tiny_bert, tiny_llama

import distill2edge as d2e
from distill2edge.cli.main import main

WORDS = {"the good film": "film", "a bad dog": "dog", "music and books": "music"}
RECIPE = """\
name: tiny
task: classification
teacher: {{model: {model}, fit: {{epochs: 6, learning_rate: 2e-3, batch_size: 8, lora: null}}}}
data:
  source: {rows}
  template: plain
  prompt: "{{{{ text }}}}"
  response: "{{{{ topics }}}}"
  choices: [film, dog, music, sun]
  multi: true
  unlabelled: {{}}
  max_length: 32
  splits: {{train: 120, validation: 8, calibration: 4, test: 30}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: labels, temperature: 2}}
student: {{init: {{from: teacher, layers: 2}}, vocabulary: trim, lora: null}}
distill:
  loss: {{ce: 0.5, forward_kl: 0.5, hidden: 0.1, class_weights: balanced}}
  epochs: 6
  learning_rate: 2e-3
  batch_size: 8
export: [onnx:int8-dynamic]
verify: {{rows: 30, min_retained: 0.8, max_kl: {{eight_bits: 0.2}}}}
bench: {{workloads: [task], rounds: 1, requests: 2}}
"""


def topics(number: int) -> list[str] | None:
    """Labels of a row: every subset of three; of each ninth there is no answer, which is not the empty set."""
    return None if number % 9 == 8 else [name for bit, name in enumerate(WORDS.values()) if number >> bit & 1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_bert(root / "teacher", layers=3, masked=True)
    tiny_bert(root / "sorts", layers=3, labels=("film", "dog", "music", "sun"))
    tiny_llama(root / "writes")
    for name in ("teacher", "sorts", "writes"):
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = []
    for n in range(200):
        said = " and ".join(text for bit, text in enumerate(WORDS) if n >> bit & 1) or "it is warm"
        rows.append({"text": f"{said} then {n * 37} it", "topics": topics(n), "wrong": ["film", "cat"]})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tiny.yaml").write_text(RECIPE.format(model=root / "teacher", rows=root / "rows.jsonl"))
    return root


def run(root: Path, *more: str) -> Result:
    place = ["--store", str(root / "store"), "--out", str(root / "out")]
    return CliRunner().invoke(main, ["run", str(root / "tiny.yaml"), *place, *more])


ENDPOINT = "teacher={model: 'endpoint:http://localhost:8000/v1', endpoint: {model: large, max_tokens: 100}, "


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.response={{ wrong }}", "row 1: the label 'cat' is not one of data.choices"),
        ("data.choices=null", "set data.choices"),
        ("data.ordered=true", "data.ordered is for task classification, not for classification with data.multi"),
        ("distill.loss={ce: 0.5, emd: 0.5}", "a loss on steps of a scale is for task classification"),
        ("export=[gguf:F16]", "gguf:F16: a GGUF has no field that says that its labels do not exclude each other"),
        ("data.separator=i", "data.separator 'i' stands in the choice 'film'"),
        ("task=regression", "data.multi is for task classification, not for regression"),
        ("data.multi=false", "is a list of 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(place: Path, change: str, said: str) -> None:
    result = run(place, "--set", change)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("teacher={model: writes, ask: {prompt: '{{ prompt }}'}}", "ask an endpoint, whose answers are read as sets"),
        (ENDPOINT + "ask: {logprobs: require}}", "say nothing of the other labels of a set"),
        (ENDPOINT + "ask: {correction: batch}}", "of a set answers are counted"),
        (ENDPOINT + "ask: {shots: 2}}", "write them into teacher.ask.prompt"),
    ],
)
def test_a_teacher_that_cannot_say_sets_is_refused(place: Path, teacher: str, said: str) -> None:
    student = "student.init={model: teacher, layers: 2}"
    result = run(place, "--set", teacher, "--set", student, "--set", "distill.loss={forward_kl: 1}")
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_a_teacher_that_chooses_one_label_is_refused_unless_it_is_fitted(place: Path) -> None:
    result = run(place, "--set", "teacher={model: sorts}")
    assert result.exit_code == 2, result.output
    assert "the teacher's head chooses one label of each text" in result.stderr
    assert "set teacher.fit" in result.stderr


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    result = run(
        place,
        *("--set", "distill.control=true", "--set", "student.thresholds=f1", "--set", "data.splits.validation=20"),
    )
    assert result.exit_code == 0, result.output
    return place


def models(root: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((root / "out" / "report.json").read_text())
    return {model["id"]: model for model in report["models"]}


@pytest.mark.slow
def test_the_files_say_the_student_s_sets(finished: Path) -> None:
    found = models(finished)
    assert found["teacher"]["score"]["value"] > 0.8
    assert found["student"]["above_baseline"]
    file = found["student/onnx:int8-dynamic"]
    assert file["error"] is None
    assert file["exact"]["value"] > 0.5
    assert file["top1_student"]["value"] > 0.9
    assert file["score"]["value"] == pytest.approx(found["student"]["score"]["value"], abs=0.1)
    text = (finished / "out" / "report.md").read_text()
    for words in ("micro F1", "macro F1", "whole set right", "the constant set with the best F1", "'sun'"):
        assert words in text, words


@pytest.mark.slow
def test_rows_without_an_answer_are_apart_from_empty_sets(finished: Path) -> None:
    (data,) = (finished / "store" / "data").glob("*/data.json")
    facts = json.loads(data.read_text())
    assert facts["splits"]["train"]["without_response"] == facts["unlabelled"]["rows"] == 22
    assert facts["splits"]["train"]["choices"]["sun"] == 0
    assert any("'sun'" in warning for warning in facts["warnings"])
    held = facts["splits"]["test"]
    assert held["rows"] == 30
    assert "without_response" not in held  # an empty set is an answer


@pytest.mark.slow
def test_chat_the_library_and_predict_py_give_one_set(finished: Path) -> None:
    folder = finished / "out" / "exports" / "tiny-onnx-int8-dynamic"
    for asked, wanted in (
        ("the good film and music and books then it", {"film", "music"}),
        ("it is warm then it", set()),
    ):
        shown = CliRunner().invoke(
            main, ["chat", str(finished / "out"), "--scheme", "onnx:int8-dynamic", "--prompt", asked]
        )
        assert shown.exit_code == 0, shown.output
        with d2e.open_model(finished / "out", "onnx:int8-dynamic") as model:
            every, chosen = dict(model.labels(asked)), model.chosen(asked)
            assert set(json.loads(model.answer(asked))) == {name for name, _ in chosen} == wanted
        assert set(every) == {"film", "dog", "music", "sun"}
        said = subprocess.run(
            [sys.executable, str(folder / "predict.py"), asked], capture_output=True, text=True, check=True
        )
        for output in (said.stdout, shown.stdout):
            lines = [line.split("\t") for line in output.splitlines() if line]
            assert [name for name, _ in lines] == [name for name, _ in chosen]
            np.testing.assert_allclose([float(share) for _, share in lines], [share for _, share in chosen], atol=2e-4)
    form = json.loads((folder / "input.json").read_text())
    chosen = models(finished)["student/onnx:int8-dynamic"]["thresholds"]
    assert dict(zip(form["labels"], form["thresholds"], strict=True)) == chosen
    assert chosen["sun"] == 0.5, "no text has it"
    assert f"- `film`: above {chosen['film']:.3f}\n" in (folder / "USE.md").read_text()
    assert "they do not add up to 1" in (folder / "USE.md").read_text()
