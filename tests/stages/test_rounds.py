"""Rounds of self-training: the arms, what is kept, the second run, and the report's curve. A model of one layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill2edge.cli.main import main
from distill2edge.errors import RecipeErrors
from distill2edge.recipe.load import parse_recipe
from distill2edge.report.sections.rounds_section import rounds_chart, rounds_table

# The fit is long enough for answers that end, and too short for answers that are all right.
RECIPE = """\
name: rounds
teacher:
  model: {{architecture: llama, layers: 1, hidden: 32, heads: 2, vocabulary: 300}}
  fit: {{max_steps: 60, epochs: 60, learning_rate: 1e-2, lora: null, dtype: float32, checkpoints: 0}}
data:
  source: {rows}
  template: plain
  max_length: 16
  splits: {{train: 40, validation: 4, calibration: 4, test: 20}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: text, temperature: 1.0, samples: 3, max_new_tokens: 4, verify: [{{kind: exact}}]}}
student: {{init: {{from: teacher, layers: 1}}, lora: null}}
distill: {{loss: {{ce: 1}}, max_steps: 3, dtype: float32, checkpoints: 0}}
rounds: {{count: 2}}
export: [gguf:Q8_0]
verify: {{rows: 20}}
bench: {{workloads: [task], rounds: 1, requests: 1, torch: false}}
"""


def run(recipe: Path) -> Any:
    return CliRunner().invoke(
        main, ["run", str(recipe), "--store", str(recipe.parent / "store"), "--out", str(recipe.parent / "out")]
    )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rounds")
    rows = [{"prompt": f"{a}+{b}:", "response": str(a + b)} for a in range(10) for b in range(10)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = root / "rounds.yaml"
    path.write_text(RECIPE.format(rows=root / "rows.jsonl"))
    result = run(path)
    assert result.exit_code == 0, result.output
    return path


def test_every_arm_has_a_score_per_round_and_the_verified_one_keeps_less(recipe: Path) -> None:
    arms = json.loads((recipe.parent / "out" / "report.json").read_text())["rounds"]["arms"]
    assert set(arms) == {"verified", "unverified", "no self-training"}
    for items in arms.values():
        assert [item["round"] for item in items] == [0, 1, 2]
        assert all(item["score"]["n"] == 20 for item in items)
    assert {items[0]["score"]["value"] for items in arms.values()} == {arms["verified"][0]["score"]["value"]}
    verified, unverified = arms["verified"][1], arms["unverified"][1]
    assert verified["written"] == unverified["written"] == 120
    assert 0 < verified["kept"] <= verified["passed"] < unverified["passed"]
    assert verified["kept"] < unverified["kept"]


def test_the_files_that_ship_are_of_the_last_verified_round(recipe: Path) -> None:
    report = json.loads((recipe.parent / "out" / "report.json").read_text())
    last = report["rounds"]["arms"]["verified"][2]["score"]["value"]
    scores = {model["id"]: model["score"]["value"] for model in report["models"]}
    assert scores["student"] == pytest.approx(last, abs=0.051)  # one row of 20: batches round otherwise
    assert "student/gguf:Q8_0" in scores


def test_the_report_shows_the_curve(recipe: Path) -> None:
    out = recipe.parent / "out"
    page = (out / "report.html").read_text()
    assert "Rounds of self-training" in page
    assert "unverified, round 2" in page
    assert "| no self-training | 2 |" in (out / "report.md").read_text()


def test_the_ledger_of_every_round_is_in_the_run_directory(recipe: Path) -> None:
    found = {path.name for path in (recipe.parent / "out").glob("ledger-*.parquet")}
    assert {"ledger-signal.parquet", "ledger-signal-verified-1.parquet", "ledger-signal-unverified-2.parquet"} <= found


def test_a_second_run_reuses_every_stage(recipe: Path) -> None:
    result = run(recipe)
    assert result.exit_code == 0
    assert "done in" not in result.stderr


def test_no_rounds_no_section() -> None:
    assert rounds_chart(None) is None
    assert rounds_table({}) is None


def test_rounds_without_verifiers_are_refused(recipe: Path) -> None:
    with pytest.raises(RecipeErrors, match="verify"):
        parse_recipe(recipe.read_text().replace("[{kind: exact}]", "[]"), "r.yaml")
