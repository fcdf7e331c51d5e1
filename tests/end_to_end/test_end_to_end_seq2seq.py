"""A sequence-to-sequence recipe the whole way, offline: a T5 from nothing is fitted, distilled, exported, verified."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from distill2edge.cli.main import main

RECIPE = """\
name: pairs
task: seq2seq
teacher:
  model: {{architecture: t5, layers: 2, hidden: 32, heads: 2, vocabulary: 300}}
  fit: {{lora: null, epochs: 2, learning_rate: 5e-3, batch_size: 16, dtype: float32}}
data:
  source: {rows}
  template: plain
  max_length: 32
  splits: {{train: 64, validation: 8, calibration: 4, test: 8}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: logits, top_k: 32}}
student: {{init: {{from: teacher, layers: 1}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, epochs: 1, learning_rate: 1e-2, batch_size: 16}}
export: [onnx:int8, gguf:Q8_0, gguf:mix-kl0.05]
quantize: {{calibration: gptq}}
verify: {{rows: 8}}
bench: {{workloads: [task, chat-8-3], rounds: 1, requests: 1}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    rows = [{"prompt": f"turn {n} around", "response": str(n)[::-1]} for n in range(100, 200)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "pairs.yaml").write_text(RECIPE.format(rows=root / "rows.jsonl"))
    return root


def run(root: Path, *more: str, command: str = "run") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(root / "pairs.yaml"), "--store", str(root / "store"), *out, *more])


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    result = run(place)
    assert result.exit_code == 0, result.output
    return place


def test_the_exported_file_is_the_merged_student(finished: Path) -> None:
    report = json.loads((finished / "out" / "report.json").read_text())
    models = {model["id"]: model for model in report["models"]}
    assert all(model["error"] is None for model in models.values())
    assert report["metric"]["name"] == "exact_match"
    for name in ("student/onnx:int8", "student/gguf:Q8_0"):
        assert models[name]["kl_student"]["value"] < 0.02
    assert models["student/gguf:mix-kl0.05"]["kl_student"]["value"] < 0.2
    assert models["student"]["kl_teacher"]["value"] > 0
    folder = finished / "out" / "exports" / "pairs-onnx-int8"
    assert json.loads((folder / "export.json").read_text())["calibration"] == "gptq"
    assert {"encoder.onnx", "decoder.onnx", "model.onnx.data", "tokenizer.json"} <= {p.name for p in folder.iterdir()}


def test_a_second_run_reuses_every_stage(finished: Path) -> None:
    result = run(finished)
    assert result.exit_code == 0
    assert "done in" not in result.stderr


def test_chat_answers_from_the_export(finished: Path) -> None:
    asked = ["--prompt", "turn 123 around", "--max-tokens", "4"]
    said = []
    for target in ("", "exports/pairs-onnx-int8", "exports/pairs-gguf-Q8_0"):
        result = CliRunner().invoke(main, ["chat", str(finished / "out" / target), *asked])
        assert result.exit_code == 0, result.output
        said.append(result.stdout)
    assert said[1] == said[2]
    program = finished / "out" / "exports" / "pairs-onnx-int8" / "predict.py"
    alone = [sys.executable, "-I", str(program), "--max-tokens", "4", asked[1]]
    assert subprocess.run(alone, capture_output=True, text=True, check=True).stdout == said[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("verify.positions=all", "an encoder predicts nothing"),
        ("data.template=text", "reads data.template chat or plain, not text"),
    ],
)
def test_what_an_encoder_decoder_cannot_do_is_refused(place: Path, change: str, said: str) -> None:
    result = run(place, "--set", change, command="plan")
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_decoder_student_is_refused(finished: Path) -> None:
    made = "{model: {architecture: llama, layers: 1, hidden: 32, heads: 2}}"
    result = run(finished, "--set", f"student.init={made}", "--set", "student.lora=null", command="student")
    assert result.exit_code == 2
    assert "task: seq2seq trains encoder-decoders" in result.stderr
