"""A regressor the whole way on tiny random encoders: recipe in; files, report and exit code out."""

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

RECIPE = """\
name: tiny
task: regression
teacher: {{model: {model}, fit: {{epochs: 6, learning_rate: 2e-3, batch_size: 8, lora: null}}}}
data:
  source: {rows}
  template: plain
  prompt: "{{{{ text }}}}"
  response: "{{{{ stars }}}}"
  max_length: 32
  splits: {{train: 96, validation: 8, calibration: 4, test: 24}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: numbers}}
student: {{init: {{from: teacher, layers: 2}}, vocabulary: {{trim: corpus, min_frequency: 2}}, lora: null}}
distill:
  loss: {{mse: 0.5, teacher_mse: 0.5, hidden: 0.1}}
  epochs: 6
  learning_rate: 2e-3
  batch_size: 8
export: [onnx:int8]
verify: {{rows: 24, min_retained: 0.8, max_kl: {{lossless: 0.1, eight_bits: 0.1}}}}
bench: {{workloads: [task], rounds: 1, requests: 2}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_bert(root / "teacher", layers=3, masked=True)
    tiny_bert(root / "sorts", layers=3)
    tiny_llama(root / "writes")
    for name in ("teacher", "sorts", "writes"):
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    words = {"the good film": 9.5, "a bad dog": -4, "music and books": 2, "the warm sun": 6}
    rows = [
        {"text": f"{text} and {n} then {n * 37} it", "stars": value + n % 3 / 10, "topic": "none"}
        for n in range(140)
        for text, value in [list(words.items())[n % 4]]
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tiny.yaml").write_text(RECIPE.format(model=root / "teacher", rows=root / "rows.jsonl"))
    return root


def run(root: Path, *more: str, command: str = "run") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(root / "tiny.yaml"), "--store", str(root / "store"), *out, *more])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.response={{ topic }}", "row 1: the response is 'none', which is not a number"),
        ("data.response=null", "scored by the data's numbers"),
        ("distill.loss={ce: 1}", "set distill.loss: {mse: 0.5, teacher_mse: 0.5}"),
        ("distill.loss.class_weights=balanced", "class_weights is for task classification, not for regression"),
        ("signal={kind: labels}", "use signal: {kind: numbers}"),
        ("signal={kind: gold}", "or distill.loss: {mse: 1}"),
        ("data.choices=[a, b]", "leave data.choices out"),
        ("export=[gguf:F16]", "gguf:F16: llama.cpp has no head that gives one number"),
        ("teacher.ask={prompt: '{{ prompt }}'}", "teacher.ask is for task classification, not for regression"),
        ("verify.rows=5", "hold out 10 rows or more"),
        ("teacher.model=sorts", "and the task is regression"),
        ("teacher.model=writes", "and the task is regression"),
        ("task=embedding", "a loss on numbers is for task regression, not for embedding"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(place: Path, change: str, said: str) -> None:
    result = run(place, "--set", change)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    result = run(place, "--set", "distill.control=true")
    assert result.exit_code == 0, result.output
    return place


def models(root: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((root / "out" / "report.json").read_text())
    return {model["id"]: model for model in report["models"]}


@pytest.mark.slow
def test_the_files_say_the_student_s_numbers(finished: Path) -> None:
    found = models(finished)
    assert found["teacher"]["score"]["value"] > 0.8
    assert found["control"]["score"]["value"] > 0.5
    assert found["student"]["above_baseline"]
    file = found["student/onnx:int8"]
    assert file["error"] is None
    assert file["kl_student"]["value"] < 0.01
    assert file["score"]["value"] == pytest.approx(found["student"]["score"]["value"], abs=0.1)
    assert file["mae"]["value"] < 2
    assert file["pearson"]["low"] > 0.5
    text = (finished / "out" / "report.md").read_text()
    assert "mean absolute error" in text
    assert "Spearman's rank correlation" in text


@pytest.mark.slow
def test_chat_the_library_and_predict_py_give_one_number(finished: Path) -> None:
    asked = "the good film and it"
    shown = CliRunner().invoke(main, ["chat", str(finished / "out"), "--scheme", "onnx:int8", "--prompt", asked])
    assert shown.exit_code == 0, shown.output
    with d2e.open_model(finished / "out", "onnx:int8") as model:
        number = model.number(asked)
        with pytest.raises(d2e.UserError, match="this is a regressor"):
            model.labels(asked)
    assert 5 < number < 13
    np.testing.assert_allclose(float(shown.stdout), number, rtol=1e-4)
    folder = finished / "out" / "exports" / "tiny-onnx-int8"
    said = subprocess.run(
        [sys.executable, str(folder / "predict.py"), asked], capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose(float(said.stdout), number, rtol=1e-4)
    assert "The number of the text" in (folder / "USE.md").read_text()
