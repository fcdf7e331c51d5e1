"""A decoder teaches an encoder-decoder: its text is what crosses from one architecture to the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_t5

from distill2edge.cli.main import main

RECIPE = """\
name: across
task: seq2seq
teacher:
  model: {{architecture: llama, layers: 2, hidden: 32, heads: 2, vocabulary: 300}}
  fit: {{lora: null, epochs: 12, learning_rate: 1e-2, batch_size: 16, dtype: float32}}
data:
  source: {rows}
  template: plain
  max_length: 48
  splits: {{train: 96, validation: 8, calibration: 4, test: 8}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: text, max_new_tokens: 8}}
student: {{init: {{model: {student}}}, lora: {lora}}}
distill: {{loss: {{ce: 1}}, epochs: 1, learning_rate: 1e-2, batch_size: 16, dtype: float32, control: true}}
export: [gguf:Q8_0]
verify: {{rows: 8}}
bench: {{workloads: [task, chat-8-3], rounds: 1, requests: 1}}
"""
SCRATCH = "{architecture: t5, layers: 1, hidden: 32, heads: 2}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("across")
    rows = [{"prompt": f"say {n} in a word:", "response": " odd" if n % 2 else " even"} for n in range(100, 240)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_t5(root / "t5", layers=1)
    return root


def run(root: Path, student: str, lora: str, *, command: str = "run") -> Result:
    recipe = root / "across.yaml"
    recipe.write_text(RECIPE.format(rows=root / "rows.jsonl", student=student, lora=lora))
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(recipe), "--store", str(root / "store"), *out])


@pytest.mark.parametrize("student", [pytest.param("checkpoint", marks=pytest.mark.slow), "scratch"])
def test_a_t5_learns_from_what_a_decoder_wrote(place: Path, student: str) -> None:
    own_words = student == "checkpoint"
    result = run(place, str(place / "t5"), "{rank: 4, alpha: 8}") if own_words else run(place, SCRATCH, "null")
    assert result.exit_code == 0, result.output
    report = json.loads((place / "out" / "report.json").read_text())
    models = {model["id"]: model for model in report["models"]}
    assert set(models) == {"teacher", "student", "control", "student/gguf:Q8_0"}
    assert all(model["error"] is None and model["score"] is not None for model in models.values())
    # with the teacher's own tokenizer both predict the same target tokens; with another there is nothing to compare
    assert (models["student"]["kl_teacher"] is None) == own_words
    assert models["student/gguf:Q8_0"]["kl_student"]["value"] < 0.05
    cells = {cell["id"]: cell for cell in report["bench"]["cells"]}
    assert all(cell["error"] is None for cell in cells.values())
    # every word the student learned from is in the ledger, under the teacher's name
    assert (place / "out" / "ledger-signal.parquet").is_file()
