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
        ("distill.loss={ce: 1}", "set distill.loss: {embedding: 1}"),
        ("distill.loss={embedding: 1}", "set distill.loss: {embedding: 1, similarity: 1}"),
        ("student.dimensions=[16, 64]", "write [64, 16]"),
        ("teacher.fit={}", "leave teacher.fit out"),
        ("distill.control=true", "without it nothing is left"),
        ("data.choices=[a, b]", "leave data.choices out"),
        ("verify.rows=10", "hold out more than 10 rows"),
        ("teacher.pooling=max", "gguf:F16: llama.cpp does not pool by the greatest numbers"),
        ("signal={kind: labels}", "signal: {kind: embeddings}"),
        ("student.pretrain={}", "student.pretrain is for task classification"),
        ("student.init.layers=0", "has no layers to compare"),
        ("student={init: {from: teacher, layers: 0}}", "has no matrices for adapters"),
        ("student={init: {from: teacher, layers: 0}, lora: null}", "llama.cpp runs no model without layers"),
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
    assert found["student"]["score"]["value"] > 0.5
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


def scored_pairs(place: Path, last: str = "2") -> Path:
    """Pairs of texts with a score, more alike the more words they share."""
    same, other = "the good film and it", "a bad dog in the warm sun"
    rows = [(same, same, "5"), (same, "the good film", "4"), (same, "the bad film", "3"), (other, same, "0"),
            (other, "a bad dog", "4"), (other, "books", "1"), ("books", "the music and books", last)]  # fmt: skip
    lines = [json.dumps(dict(zip(("first", "second", "likeness"), row, strict=True))) + "\n" for row in rows]
    path = place / f"pairs-{last}.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def table(place: Path) -> Path:
    """A run of a table of token vectors, narrower than its teacher."""
    given = {
        "student": "{init: {from: teacher, layers: 0}, vocabulary: trim, dimensions: [32, 16], lora: null}",
        "distill.loss": "{similarity: 1}",
        "distill.epochs": "40",  # of nothing but a table
        "distill.learning_rate": "5e-3",
        "export": "[onnx:fp32, onnx:int8]",
        "verify.min_retained": "0.2",
        "verify.pairs": f"{{source: {scored_pairs(place)}, score: '{{{{ likeness }}}}'}}",
    }
    more = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    out = place / "table"
    result = CliRunner().invoke(
        main, ["run", str(place / "tiny.yaml"), "--store", str(place / "store"), "--out", str(out), *more]
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.slow
def test_a_table_of_token_vectors_is_a_student(table: Path) -> None:
    report = json.loads((table / "report.json").read_text())
    found = {model["id"]: model for model in report["models"]}
    assert found["student/onnx:fp32"]["score"]["value"] == found["student"]["score"]["value"]
    assert found["student/onnx:int8"]["score"]["value"] == pytest.approx(found["student"]["score"]["value"], abs=0.05)
    assert found["student"]["score"]["value"] > 0.5 > report["metric"]["baseline"]["chance"]
    assert set(found["student"]["dimensions"]) == {"32", "16"}
    assert "none: a table of token vectors" in (table / "report.md").read_text()


@pytest.mark.slow
def test_cosines_are_held_against_the_scores_of_pairs(table: Path) -> None:
    report = json.loads((table / "report.json").read_text())
    found = {model["id"]: model["gold_pairs"] for model in report["models"]}
    assert set(found) == {"teacher", "student", "student/onnx:fp32", "student/onnx:int8"}
    assert found["teacher"]["against_teacher"] is None
    for name in ("student", "student/onnx:fp32", "student/onnx:int8"):
        mine, gap = found[name]["spearman"], found[name]["against_teacher"]
        assert mine["value"] > 0
        assert mine["n"] == gap["n"] == 7
        assert gap["value"] == pytest.approx(mine["value"] - found["teacher"]["spearman"]["value"])
    assert "Spearman, scored pairs" in (table / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{{source: {pairs}}}", "row 1 has no field score"),
        ("{{source: {pairs}, score: '{{{{ likeness }}}}', first: '{{{{ frist }}}}'}}", "row 1 has no field frist"),
        ("{{source: {pairs}, score: '{{{{ likeness }}}}', filter: likeness == 'x'}}", "0 pairs of"),
        ("{{source: {pairs}, score: '3'}}", "every score is 3: such pairs have no order"),
        ("{{source: {bad}, score: '{{{{ likeness }}}}'}}", "row 7: the score is 'much', which is not a number"),
        ("{{source: nowhere.jsonl}}", "verify.pairs"),
    ],
)
def test_pairs_that_say_nothing_are_refused_before_anything_is_computed(place: Path, change: str, said: str) -> None:
    pairs, bad = scored_pairs(place), scored_pairs(place, "much")
    given = f"verify.pairs={change.format(pairs=pairs, bad=bad)}"
    result = CliRunner().invoke(main, ["recipe", "check", str(place / "tiny.yaml"), "--set", given])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "verify.pairs" in result.stderr
    assert "data.source" not in result.stderr


@pytest.mark.slow
def test_a_table_does_not_read_the_order_of_words(table: Path) -> None:
    with d2e.open_model(table, "onnx:fp32") as model:
        one, other = model.embed("the good film and it"), model.embed("it and film good the")
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert len(one) == 32


@pytest.mark.slow
def test_a_narrow_table_cannot_be_compared_number_by_number(place: Path) -> None:
    student = "student={init: {from: teacher, layers: 0}, dimensions: [32], lora: null}"
    loss = "distill.loss={embedding: 1, similarity: 1}"
    result = run(place, "--set", student, "--set", loss, "--set", "export=[onnx:int8]")
    assert result.exit_code == 2
    assert "a table of 32 dimensions has axes of its own" in result.stderr


@pytest.mark.slow
def test_a_second_run_reuses_every_stage(finished: Path) -> None:
    result = run(finished)
    assert result.exit_code == 0
    assert "done in" not in result.stderr
