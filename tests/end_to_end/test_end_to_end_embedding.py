"""An embedder the whole way on tiny random encoders: recipe in; files, report and exit code out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny import tiny_bert

import distill2edge as d2e
from distill2edge.cli.main import main

RECIPE = """\
name: tiny
task: embedding
teacher: {{model: {model}}}
data:
  source: {rows}
  template: plain
  prompt: "{{{{ text }}}}"
  response: null
  max_length: 32
  splits: {{train: 48, validation: 8, calibration: 4, test: 24}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: embeddings}}
student: {{init: {{from: teacher, layers: 2}}, vocabulary: trim, dimensions: [64, 16], lora: null}}
distill:
  loss: {{embedding: 1.0, similarity: 1.0, hidden: 1.0}}
  epochs: 10
  learning_rate: 2e-3
  batch_size: 8
export: [onnx:int8, onnx:int8-dynamic, gguf:F16]
verify: {{rows: 24, min_retained: 0.5}}
bench: {{workloads: [task], rounds: 1, requests: 2}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_bert(root / "teacher", layers=4, masked=True)
    (root / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    words = ("the good film", "a bad dog", "music and books", "the warm sun")
    rows = [{"text": f"{words[n % 4]} and {n} then {n * 37} it", "topic": "none"} for n in range(100)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tiny.yaml").write_text(RECIPE.format(model=root / "teacher", rows=root / "rows.jsonl"))
    return root


def run(root: Path, *more: str, command: str = "run") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(root / "tiny.yaml"), "--store", str(root / "store"), *out, *more])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("distill.loss={ce: 1}", "set distill.loss: {embedding: 1, similarity: 1}"),
        ("distill.loss={embedding: 1}", "set distill.loss: {embedding: 1, similarity: 1}"),
        ("student.dimensions=[16, 64]", "write [64, 16]"),
        ("teacher.fit={}", "leave teacher.fit out"),
        ("distill.control=true", "without it nothing is left"),
        ("data.choices=[a, b]", "leave data.choices out"),
        ("verify.rows=10", "hold out more than 10 rows"),
        ("teacher.pooling=max", "gguf:F16: llama.cpp does not pool by the greatest numbers"),
        ("signal={kind: labels}", "signal: {kind: embeddings}"),
        ("student.pretrain={}", "student.pretrain is for task classification"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(place: Path, change: str, said: str) -> None:
    result = run(place, "--set", change)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    result = run(place)
    assert result.exit_code == 0, result.output
    return place


def models(root: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((root / "out" / "report.json").read_text())
    return {model["id"]: model for model in report["models"]}


@pytest.mark.slow
def test_the_files_keep_the_student_s_neighbours(finished: Path) -> None:
    found = models(finished)
    assert found["teacher"]["score"]["value"] == 1.0
    assert found["student"]["score"]["value"] > 0.6
    for name in ("onnx:int8", "onnx:int8-dynamic", "gguf:F16"):
        file = found[f"student/{name}"]
        assert file["error"] is None
        assert file["kl_student"]["value"] < 1e-3
        assert file["score"]["value"] == pytest.approx(found["student"]["score"]["value"], abs=0.05)
        assert set(file["dimensions"]) == {"64", "16"}
        assert file["dimensions"]["64"]["value"] == pytest.approx(file["score"]["value"])
        assert file["cosine_teacher"]["value"] > 0.8


@pytest.mark.slow
def test_report_and_card_speak_of_vectors(finished: Path) -> None:
    text = (finished / "out" / "report.md").read_text()
    assert "| recall@10 |" in text
    assert "recall@10, 16 dimensions" in text
    assert "neighbours by shared words (TF-IDF)" in text
    card = (finished / "out" / "model_card.md").read_text()
    assert "pipeline_tag: sentence-similarity" in card
    assert "`--dimensions N`" in card


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["onnx:int8", "gguf:F16"])
def test_chat_the_library_and_predict_py_give_one_vector(finished: Path, scheme: str) -> None:
    asked = "the good film and it"
    shown = CliRunner().invoke(main, ["chat", str(finished / "out"), "--scheme", scheme, "--prompt", asked])
    assert shown.exit_code == 0, shown.output
    vector = np.array(json.loads(shown.stdout))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
    with d2e.open_model(finished / "out", scheme) as model:
        np.testing.assert_allclose(model.embed(asked), vector, atol=1e-5)
        with pytest.raises(d2e.UserError, match="this is an embedder"):
            model.labels(asked)
    folder = finished / "out" / "exports" / f"tiny-{scheme.replace(':', '-')}"
    for more, length in (([], 64), (["--dimensions", "16"], 16)):
        said = subprocess.run(
            [sys.executable, str(folder / "predict.py"), asked, *more], capture_output=True, text=True, check=True
        )
        found = np.array(json.loads(said.stdout))
        wanted = vector[:length] / np.linalg.norm(vector[:length])
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert "16 numbers were trained to serve alone" in (folder / "USE.md").read_text()


@pytest.mark.slow
def test_a_second_run_reuses_every_stage(finished: Path) -> None:
    result = run(finished)
    assert result.exit_code == 0
    assert "done in" not in result.stderr
