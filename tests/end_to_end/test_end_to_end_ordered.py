"""Choices that are steps of a scale the whole way on tiny random encoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_bert

from distill2edge.cli.main import main

RECIPE = """\
name: tiny
task: classification
teacher: {{model: {model}, fit: {{epochs: 6, learning_rate: 2e-3, batch_size: 8, lora: null}}}}
data:
  source: {rows}
  template: plain
  prompt: "{{{{ text }}}}"
  response: "{{{{ stars }}}}"
  choices: ["1", "2", "3"]
  ordered: true
  max_length: 32
  splits: {{train: 90, validation: 8, calibration: 4, test: 30}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: labels}}
student: {{init: {{from: teacher, layers: 2}}, lora: null}}
distill: {{loss: {{ce: 0.5, emd: 0.5}}, epochs: 6, learning_rate: 2e-3, batch_size: 8}}
export: [onnx:int8-dynamic]
verify: {{rows: 30, max_kl: {{eight_bits: 0.2}}}}
bench: {{workloads: [task], rounds: 1, requests: 2}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_bert(root / "teacher", layers=3, masked=True)
    (root / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    words = ("a bad dog", "it is warm", "the good film")
    rows = [{"text": f"{words[n % 3]} and {n} then {n * 37} it", "stars": n % 3 + 1} for n in range(150)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tiny.yaml").write_text(RECIPE.format(model=root / "teacher", rows=root / "rows.jsonl"))
    return root


def run(root: Path, *more: str) -> Result:
    where = ["--store", str(root / "store"), "--out", str(root / "out")]
    return CliRunner().invoke(main, ["run", str(root / "tiny.yaml"), *where, *more])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.ordered=false", "nothing says that data.choices are in an order"),
        ("task=seq2seq", "data.ordered is for task classification, not for seq2seq"),
    ],
)
def test_steps_need_an_order(place: Path, change: str, said: str) -> None:
    result = run(place, "--set", change)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.slow
def test_the_report_counts_steps(place: Path) -> None:
    result = run(place)
    assert result.exit_code == 0, result.output
    models = {model["id"]: model for model in json.loads((place / "out" / "report.json").read_text())["models"]}
    for model in models.values():
        wrong = 1 - model["score"]["value"]
        assert wrong <= model["steps_off"]["value"] <= 2 * wrong + 1e-9
        assert -1 <= model["weighted_kappa"] <= 1
    assert models["student/onnx:int8-dynamic"]["weighted_kappa"] > 0.8
    text = (place / "out" / "report.md").read_text()
    assert "steps off" in text
    assert "weighted kappa" in text
