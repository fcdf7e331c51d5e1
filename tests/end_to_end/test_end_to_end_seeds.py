"""Two seeds the whole way on a tiny random encoder: one split and teacher, files of each, one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_bert

from distill2edge.cli.main import main

pytestmark = pytest.mark.slow
RECIPE = """\
name: tiny
task: classification
teacher: {{model: {root}/teacher, fit: {{epochs: 8, learning_rate: 3e-3, batch_size: 8, lora: null}}}}
data:
  source: {root}/rows.jsonl
  template: plain
  prompt: "{{{{ text }}}}"
  response: "{{{{ label }}}}"
  choices: [bad, good]
  max_length: 32
  splits: {{train: 40, validation: 8, calibration: 4, test: 12}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: labels, temperature: 2.0}}
student: {{init: {{from: teacher, layers: 1}}, lora: null}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, epochs: 2, learning_rate: 3e-3, batch_size: 8}}
export: [gguf:Q8_0]
verify: {{min_retained: 0.1, max_kl: null}}
bench: {{workloads: [task], rounds: 1, requests: 2, torch: false}}
"""


def call(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def run(root: Path) -> Result:
    places = ["--store", str(root / "store"), "--out", str(root / "out")]
    return call("run", str(root / "tiny.yaml"), *places, "--seeds", "0,1")


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_two_seeds_from_recipe_to_report(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "teacher", masked=True)
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    words = ("the good film", "a bad dog")
    rows = [{"text": f"{words[n % 2]} and {n} then {n * 37} it", "label": ("good", "bad")[n % 2]} for n in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(root=tmp_path))

    done = run(tmp_path)
    assert done.exit_code == 0, done.output
    second = done.stderr.partition("seed 1 (2 of 2)")[2]
    shared, trained = ("data", "teacher", "fit", "signal"), ("student", "distill", "merge", "verify", "bench")
    assert all(f"{stage}: reused" in second for stage in shared)
    assert all(f"{stage}: done in" in second for stage in trained)

    out = tmp_path / "out"
    report, each = document(out / "report.json"), [document(out / f"seed-{seed}" / "report.json") for seed in (0, 1)]
    assert report["seeds"]["seeds"] == [0, 1] == [one["seed"] for one in each]
    assert each[0]["data"]["splits"] == each[1]["data"]["splits"]
    for index, model in enumerate(report["models"]):
        scores = [one["models"][index]["score"]["value"] for one in each]
        assert model["score"]["value"] == pytest.approx(sum(scores) / 2)
    files = [(out / f"seed-{seed}" / "exports" / "tiny-gguf-Q8_0" / "model.gguf").read_bytes() for seed in (0, 1)]
    assert files[0] != files[1]
    assert not (out / "exports").exists()

    asked = call("chat", str(out / "seed-1"), "--prompt", "the good film")
    assert asked.exit_code == 0, asked.output
    assert {line.split()[0] for line in asked.stdout.splitlines()} == {"good", "bad"}
    assert str(out / "seed-0") in call("chat", str(out), "--prompt", "x").stderr

    shown = call("compare", str(out / "seed-0"), str(out / "seed-1"))  # one workload: their speeds compare
    assert shown.exit_code == 0, shown.output
    for name in ("report.html", "report.md", "model_card.md"):
        assert str(tmp_path) not in (out / name).read_text()

    (tmp_path / "store").rename(tmp_path / "moved")
    moved = ["--store", str(tmp_path / "moved"), "--out", str(out)]
    again = call("run", str(out / "recipe.yaml"), *moved, "--seeds", "0,1")
    assert again.exit_code == 0
    assert "done in" not in again.stderr

    plain = call("run", str(out / "seed-0" / "recipe.yaml"), *moved)
    assert plain.exit_code == 0, plain.output
    assert "done in" not in plain.stderr
    assert (out / "exports").is_dir()
    assert not [*out.glob("seed-*")]
