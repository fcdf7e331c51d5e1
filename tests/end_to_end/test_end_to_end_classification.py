"""A classifier the whole way on tiny random encoders: recipe in; files, report and exit code out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_bert, tiny_recipe

from distill2edge.cli.main import main

RECIPE = """\
name: tiny
task: classification
teacher: {{model: {model}, fit: {{epochs: 20, learning_rate: 3e-3, batch_size: 8, lora: {{rank: 4, alpha: 8}}}}}}
data:
  source: {rows}
  template: plain
  prompt: "{{{{ text }}}}"
  response: "{{{{ label }}}}"
  choices: [bad, good]
  max_length: 32
  splits: {{train: 40, validation: 8, calibration: 4, test: 12}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: labels, temperature: 2.0}}
student: {{init: {{from: teacher, layers: 2}}, vocabulary: trim, lora: null}}
distill:
  loss: {{ce: 0.5, forward_kl: 0.5, hidden: 1.0, attention: 0.1}}
  epochs: 6
  learning_rate: 1e-3
  batch_size: 8
  gradient_accumulation: 2
  control: true
export: [onnx:int8, onnx:int8-dynamic, gguf:F16, gguf:mix-kl0.05]
quantize: {{calibration: gptq}}
verify: {{rows: 12}}
bench: {{workloads: [task], rounds: 1, requests: 2}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_bert(root / "teacher", layers=4, masked=True)
    (root / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    words = ("the good film", "a bad dog")
    rows = [{"text": f"{words[n % 2]} and {n} then {n * 37} it", "label": ("good", "bad")[n % 2]} for n in range(80)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tiny.yaml").write_text(RECIPE.format(model=root / "teacher", rows=root / "rows.jsonl"))
    return root


def run(root: Path, *more: str, command: str = "run") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(root / "tiny.yaml"), "--store", str(root / "store"), *out, *more])


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    result = run(place)
    assert result.exit_code == 0, result.output
    return place


def how_rounded(root: Path) -> dict[str, Any]:
    """By which statistics each file was."""
    found = (root / "out" / "exports").glob("*/export.json")
    return {path.parent.name: json.loads(path.read_text())["calibration"] for path in found}


def models(root: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((root / "out" / "report.json").read_text())
    return {model["id"]: model for model in report["models"]}


def test_the_files_keep_the_student_s_class_distribution(finished: Path) -> None:
    found = models(finished)
    assert found.keys() == {
        "teacher",
        "student",
        "control",
        "student/onnx:int8",
        "student/onnx:int8-dynamic",
        "student/gguf:F16",
        "student/gguf:mix-kl0.05",
    }
    assert found["student/gguf:F16"]["kl_student"]["value"] < 1e-4
    assert found["student/onnx:int8"]["kl_student"]["value"] < 0.05
    assert found["student/gguf:mix-kl0.05"]["kl_student"]["value"] < 0.2
    assert found["student/onnx:int8-dynamic"]["kl_student"]["value"] < 0.05
    files = json.loads((finished / "out" / "report.json").read_text())["files"]
    (types,) = [file["types"] for file in files if file["model"] == "student/onnx:int8-dynamic"]
    assert types["int8"]["weights"] + types["uint8"]["weights"] > 0.9 * sum(
        entry["weights"] for entry in types.values()
    )
    assert all(model["error"] is None for model in found.values())
    assert how_rounded(finished) == {
        "tiny-onnx-int8": "gptq",
        "tiny-onnx-int8-dynamic": None,
        "tiny-gguf-F16": None,
        "tiny-gguf-mix-kl0.05": "sensitivity",
    }


def test_the_student_has_fewer_layers_and_fewer_tokens(finished: Path) -> None:
    found = models(finished)
    assert found["student"]["parameters"] < 0.6 * found["teacher"]["parameters"]
    student = json.loads((finished / "out" / "report.json").read_text())["student"]
    assert student["vocabulary"]["kept"] < student["vocabulary"]["of"]
    assert student["vocabulary"]["unseen_on_test"]["tokens"] > 0


def test_the_fitted_teacher_and_its_student_learn_the_task(finished: Path) -> None:
    found = models(finished)
    assert found["teacher"]["score"]["value"] >= 0.9
    assert found["student"]["retained"]["value"] >= 0.9


def test_a_request_is_one_text_without_a_pace(finished: Path) -> None:
    bench = json.loads((finished / "out" / "report.json").read_text())["bench"]
    for cell in bench["cells"]:
        assert cell["error"] is None
        assert cell["workloads"]["task"]["tpot_ms"] is None
        assert cell["workloads"]["task"]["ttft_ms"] == cell["workloads"]["task"]["e2e_ms"]


def test_the_page_and_the_card_speak_of_classification(finished: Path) -> None:
    assert "pipeline_tag: text-classification" in (finished / "out" / "model_card.md").read_text()
    assert "nats per text" in (finished / "out" / "report.md").read_text()


def test_a_second_run_reuses_every_stage(finished: Path) -> None:
    result = run(finished)
    assert result.exit_code == 0
    assert "done in" not in result.stderr


def test_plan_shows_everything_cached(finished: Path) -> None:
    result = run(finished, "--json", command="plan")
    assert result.exit_code == 0, result.output
    assert all(stage["cached"] for stage in json.loads(result.stdout)["stages"])


@pytest.mark.parametrize("scheme", ["onnx:int8", "gguf:F16"])
def test_chat_prints_the_probability_of_each_label(finished: Path, scheme: str) -> None:
    args = ["chat", str(finished / "out"), "--scheme", scheme, "--prompt", "the good film"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    shown = dict(line.split() for line in result.stdout.splitlines())
    assert shown.keys() == {"good", "bad"}
    assert sum(map(float, shown.values())) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("distill.loss.layer_map=[0, 9]", "layer 9 is out of range: the teacher has 4 layers"),
        ("distill.loss.layer_map=[0]", "1 layers, and the student has 2"),
        ("student.init.layers=[1, 4]", "layer 4 is out of range"),
        ("data.max_length=1000", "this model (bert) has 128 positions"),
        ("data.template=chat", "data.template: plain"),
        ("signal={kind: logits}", "signal: {kind: labels}"),
        ("bench.workloads=[chat-8-3]", "workloads: [task]"),
        ("data.choices=null", "set data.choices"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(finished: Path, change: str, said: str) -> None:
    result = run(finished, "--set", change)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_labels_that_are_not_the_teacher_s_are_refused(finished: Path, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "other", labels=("bad", "fine"))
    (tmp_path / "other" / "README.md").write_text("---\nlicense: mit\n---\n")
    result = run(finished, "--set", f"teacher={{model: {tmp_path / 'other'}}}", command="signal")
    assert result.exit_code == 2
    assert "labels are bad, fine; the data has good" in result.stderr


def test_dynamic_int8_is_refused_where_it_loses_too_much(tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    args = ["run", str(tmp_path / "tiny.yaml"), "--set", "export=[onnx:int8-dynamic]"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert "use onnx:int8" in result.stderr


def test_a_head_of_another_size_is_refused(finished: Path, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "other")
    (tmp_path / "other" / "README.md").write_text("---\nlicense: mit\n---\n")
    result = run(finished, "--set", f"teacher.model={tmp_path / 'other'}", command="signal")
    assert result.exit_code == 2
    assert "the head has 3 labels" in result.stderr
