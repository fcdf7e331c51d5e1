"""Two texts the whole way on tiny random encoders: recipe in; files, report and answers out."""

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
name: {task}
task: {task}
teacher: {{model: {root}/teacher, fit: {{epochs: 12, learning_rate: 2e-3, batch_size: 8, lora: null}}}}
data:
  source: {root}/rows.jsonl
  template: plain
  prompt: "{{{{ query }}}}"
  pair: "{{{{ passage }}}}"
  {data}
  max_length: 24
  splits: {{train: 160, validation: 16, calibration: 8, test: 32}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: {signal}}}
student: {{init: {{from: teacher, layers: 2}}, vocabulary: trim, lora: null}}
distill: {{loss: {{{loss}, hidden: 0.1}}, epochs: 8, learning_rate: 2e-3, batch_size: 8}}
export: [onnx:int8]
verify: {{rows: 32, min_ndcg_retained: 0.7, max_kl: {{lossless: 0.1, eight_bits: 0.1}}}}
bench: {{workloads: [task], rounds: 1, requests: 2}}
"""
KINDS = {
    "classification": {
        "data": 'response: "{{ label }}"\n  choices: ["no", "yes"]',
        "signal": "labels",
        "loss": "ce: 0.5, forward_kl: 0.5",
    },
    "regression": {"data": 'response: "{{ score }}"', "signal": "numbers", "loss": "mse: 0.5, teacher_mse: 0.5"},
}  # fmt: skip
VALUES = {"good": 2, "bad": -2, "warm": 1, "awful": -1}
WORDS = tuple(VALUES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    tiny_bert(root / "teacher", layers=3, masked=True)
    tiny_llama(root / "writes")
    for name in ("teacher", "writes"):
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = []
    for n in range(260):
        first, second = WORDS[n % 4], WORDS[(n % 4 + 1 + n // 4 % 3) % 4]
        gap = VALUES[first] - VALUES[second]  # swapped, the two texts have the same words and another answer
        rows.append({
            "query": f"a {first} film {n % 12}", "passage": f"a {second} film {n * 37}", "other": f"{n}",
            "label": "yes" if gap > 0 else "no", "score": gap,
        })  # fmt: skip
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for task, more in KINDS.items():
        (root / f"{task}.yaml").write_text(RECIPE.format(root=root, task=task, **more))
    return root


def run(root: Path, task: str, *more: str, command: str = "run") -> Result:
    place = ["--store", str(root / "store")] if command != "recipe check" else []
    out = ["--out", str(root / task)] if command == "run" else []
    return CliRunner().invoke(main, [*command.split(), str(root / f"{task}.yaml"), *place, *out, *more])


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("classification", "export=[gguf:F16]", "gguf:F16: llama.cpp reads one text"),
        ("regression", "export=[gguf:F16]", "gguf:F16: llama.cpp reads one text"),
        ("classification", "verify.teacher_schemes=[gguf:F16]", "verify.teacher_schemes"),
        ("classification", "data.pair={{ passge }}", "has a field 'passge'"),
        ("classification", "data.pair={{ label", "not valid Jinja"),
        ("classification", "data.form=alpaca", "so do data.prompt, response, pair, template"),
        ("classification", "data.unlabelled={pair: '{{ other }}'}", "data.unlabelled.pair is for a source of its own"),
        ("classification", "task=embedding", "data.pair is for task classification or regression, not for embedding"),
        ("classification", "task=causal-lm", "data.pair is for task classification or regression, not for causal-lm"),
        ("classification", "task=seq2seq", "data.pair is for task classification or regression, not for seq2seq"),
        (
            "classification",
            "teacher={model: writes, ask: {answers: ['0', '1']}}",
            "nothing of the second text of a row",
        ),
        ("classification", "teacher={model: writes, ask: {prompt: '{{ prompt }} {{ pear }}'}}", "it names pear"),
        ("regression", "teacher.model=writes", "and the task is regression"),
        ("regression", "data.prompt={{ query }} {{ other }}", "no two rows share their first text"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(place: Path, task: str, change: str, said: str) -> None:
    result = run(place, task, "--set", change)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_a_body_whose_tokenizer_tells_no_two_texts_apart_is_refused_before_it_is_trained(place: Path) -> None:
    result = run(place, "classification", "--set", "teacher.model=writes", command="recipe check")
    assert result.exit_code == 2, result.output
    assert "puts nothing between two texts" in result.stderr


def test_a_pool_alone_may_not_have_a_second_text(place: Path) -> None:
    more = ["data.pair=null", "data.unlabelled={source: rows.jsonl, pair: '{{ other }}'}"]
    result = run(place, "classification", *(part for each in more for part in ("--set", each)))
    assert result.exit_code == 2, result.output
    assert "give data.pair too" in result.stderr


@pytest.fixture(scope="module", params=KINDS)
def finished(place: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    result = run(place, request.param)
    assert result.exit_code == 0, result.output
    assert "training pairs are longer than" not in result.output
    return place, request.param


def models(root: Path, task: str) -> dict[str, dict[str, Any]]:
    report = json.loads((root / task / "report.json").read_text())
    return {model["id"]: model for model in report["models"]}


@pytest.mark.slow
def test_the_file_and_predict_py_say_what_verify_scored(finished: tuple[Path, str]) -> None:
    root, task = finished
    found = models(root, task)
    assert found["teacher"]["score"]["value"] > 0.8
    assert found["student"]["score"]["value"] > 0.7
    assert found["student/onnx:int8"]["error"] is None
    assert found["teacher"]["ndcg"]["value"] > 0.8
    assert 1 < found["student/onnx:int8"]["ndcg_retained"]["n"] <= 12
    assert "nDCG at 10 retained" in (root / task / "report.html").read_text()
    assert found["student/onnx:int8"]["kl_student"]["value"] < 0.02
    folder = root / task / "exports" / f"{task}-onnx-int8"
    better, worse = ("a good film 70", "a bad film 370"), ("a bad film 370", "a good film 70")
    with d2e.open_model(root / task, "onnx:int8") as model:
        said = [answered(model, each) for each in (better, worse)]
        assert said[0] > said[1]
        with pytest.raises(d2e.UserError, match="this model reads two texts"):
            answered(model, (better[0], None))
    for pair, wanted in zip((better, worse), said, strict=True):
        shown = CliRunner().invoke(
            main, ["chat", str(root / task), "--scheme", "onnx:int8", "--prompt", "\t".join(pair)]
        )
        assert shown.exit_code == 0, shown.output
        printed = subprocess.run(
            [sys.executable, str(folder / "predict.py"), *pair], capture_output=True, text=True, check=True
        ).stdout
        for text in (shown.stdout, printed):
            np.testing.assert_allclose(number_in(text), wanted, atol=2e-4)
    both = "".join("\t".join(pair) + "\n" for pair in (better, worse))
    lines = subprocess.run(
        [sys.executable, str(folder / "predict.py"), "--lines"], input=both, capture_output=True, text=True, check=True
    )
    assert [number_in(part) for part in lines.stdout.strip().split("\n\n")] == pytest.approx(said, abs=2e-4)
    alone = subprocess.run([sys.executable, str(folder / "predict.py"), better[0]], capture_output=True, text=True)
    assert alone.returncode == 1
    assert "the model reads two: predict.py FIRST SECOND" in alone.stderr


def answered(model: Any, pair: tuple[str, str | None]) -> float:
    if model.form.kind == "regressor":
        return float(model.number(*pair))
    return dict(model.labels(*pair))["yes"]


def number_in(text: str) -> float:
    """The number that a regressor says, or the share of `yes`."""
    rows = [line.split("\t") for line in text.strip().splitlines()]
    return float(rows[0][0]) if len(rows[0]) == 1 else float(dict(rows)["yes"])  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_is_handed_over_says_that_there_are_two_texts(finished: tuple[Path, str]) -> None:
    root, task = finished
    folder = root / task / "exports" / f"{task}-onnx-int8"
    form = json.loads((folder / "input.json").read_text())
    assert form["pair"] == "{{ passage }}"
    assert form["pair_frame"]["types"] == [0, 0, 0, 1, 1]
    use = (folder / "USE.md").read_text()
    assert 'predict.py "the first text" "the second text"' in use
    assert "{{ passage }}" in use
    card = (root / task / "model_card.md").read_text()
    assert 'predict.py "the first text" "the second text"' in card
    assert "It takes two texts, in this order" in card


def test_masked_pretraining_and_a_cut_pair_go_the_whole_way(place: Path) -> None:
    more = ["student.pretrain={epochs: 1, max_steps: 2}", "student.init.select=even", "data.max_length=10"]
    more += ["teacher.fit.epochs=1", "distill.epochs=1", "data.unlabelled={source: rows.jsonl, rows: 10}"]
    result = run(place, "classification", *(part for each in more for part in ("--set", each)), command="distill")
    assert result.exit_code == 0, result.output
    assert "training pairs are longer than data.max_length (10 tokens)" in result.output


def test_a_decoder_is_asked_about_both_texts(place: Path) -> None:
    ask = "{prompt: '{{ prompt }} and {{ pair }} is', template: plain, answers: [' bad', ' good']}"
    more = [
        f"teacher={{model: writes, ask: {ask}}}", "student.init={model: teacher, layers: 2}", "distill.epochs=1",
        "distill.loss={ce: 0.5, forward_kl: 0.5, hidden: 0}",
    ]  # fmt: skip
    result = run(place, "classification", *(part for each in more for part in ("--set", each)), command="distill")
    assert result.exit_code == 0, result.output
