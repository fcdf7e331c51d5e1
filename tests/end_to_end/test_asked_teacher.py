"""A language model teaches an encoder that it shares no token with: rows without an answer, in its own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_bert, tiny_llama

from distill2edge.cli.main import main

RECIPE = """\
name: asked
task: classification
teacher:
  model: {root}/teacher
  fit: {{epochs: 25, learning_rate: 3e-3, batch_size: 8, lora: null}}
  ask: {{prompt: "{{{{ prompt }}}} is", template: plain, answers: [" bad", " good"]}}
data:
  source: {root}/rows.jsonl
  template: plain
  prompt: "{{{{ text }}}}"
  response: "{{{{ label }}}}"
  choices: [bad, good]
  max_length: 32
  splits: {{train: 16, validation: 8, calibration: 4, test: 12}}
  leakage: {{near_duplicate: 1.0}}
  unlabelled: {{source: {root}/bare.csv, rows: 60}}
signal: {{kind: labels, temperature: 2.0}}
student: {{init: {{model: {root}/student, layers: 2}}, vocabulary: trim, lora: null}}
distill: {{loss: {{ce: 0.3, forward_kl: 0.7}}, epochs: 8, learning_rate: 3e-3, batch_size: 8, control: true}}
export: [onnx:int8-dynamic, gguf:F16]
verify: {{rows: 12, teacher_schemes: [gguf:Q8_0]}}
bench: {{workloads: [task], rounds: 1, requests: 2}}
"""
WORDS = ("a bad dog", "the good film")


def row(n: int) -> str:
    return f"{WORDS[n % 2]} and {n} then {n * 37} it"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("asked")
    tiny_llama(root / "teacher")
    tiny_bert(root / "student", layers=4, masked=True)
    for name in ("teacher", "student"):
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = [{"text": row(n), "label": ("bad", "good")[n % 2]} for n in range(60)]
    (root / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (root / "bare.csv").write_text("text\n" + "".join(f'"{row(n)}"\n' for n in range(40, 140)))
    (root / "asked.yaml").write_text(RECIPE.format(root=root))
    return root


def run(root: Path, *more: str, command: str = "run", out: str = "out") -> Result:
    where = ["--store", str(root / "store"), *(["--out", str(root / out)] if command == "run" else [])]
    where = [] if command == "recipe check" else where
    return CliRunner().invoke(main, [*command.split(), str(root / "asked.yaml"), *where, *more])


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Path, Result]:
    result = run(place)
    assert result.exit_code in (0, 3), result.output
    return place, result


def report(root: Path, out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / out / "report.json").read_text())
    return found


def test_the_pool_joins_the_training_rows_and_leaves_the_held_out_ones_alone(finished: tuple[Path, Result]) -> None:
    root, result = finished
    (facts,) = [json.loads(path.read_text()) for path in root.glob("store/data/*/data.json")]
    assert facts["unlabelled"]["read"] == 100
    assert facts["dropped"]["labelled"] > 0  # rows 40 to 59 are in both sources
    assert facts["splits"]["train"]["rows"] == 16 + facts["unlabelled"]["rows"]
    assert facts["splits"]["train"]["without_response"] == facts["unlabelled"]["rows"] == 60
    assert "without_response" not in facts["splits"]["test"]
    assert "60 of train without a response" in result.output


def test_teacher_and_student_learn_the_task_each_in_its_own_words(finished: tuple[Path, Result]) -> None:
    root, _ = finished
    models = {model["id"]: model for model in report(root)["models"]}
    assert set(models) == {
        "teacher", "student", "control", "student/onnx:int8-dynamic", "student/gguf:F16", "teacher/gguf:Q8_0",
    }  # fmt: skip
    assert all(model["error"] is None for model in models.values())
    assert models["teacher"]["score"]["value"] >= 0.9
    assert models["student"]["retained"]["value"] >= 0.9
    assert models["student/gguf:F16"]["kl_student"]["value"] < 1e-4
    assert all(0 <= model["ece"] <= 1 and 0 <= model["macro_f1"] <= 1 for model in models.values())
    assert models["teacher/gguf:Q8_0"]["top1_teacher"]["value"] >= 0.9


def test_the_signal_says_how_it_was_corrected_and_what_the_teacher_said(finished: tuple[Path, Result]) -> None:
    (facts,) = [json.loads(path.read_text()) for path in finished[0].glob("store/signal/*/signal.json")]
    assert facts["asked_by"] == "likelihood"
    assert {each["correction"] for each in facts["corrections"]} == {"none", "contextual", "batch", "fitted"}
    assert sum(facts["said"].values()) == facts["texts"] == 16 + 60 + 8
    assert min(facts["said"].values()) > 0
    assert facts["left_out"] == 0


def test_a_request_to_the_teacher_is_its_prompt_and_one_answer(finished: tuple[Path, Result]) -> None:
    bench = report(finished[0])["bench"]
    (workload,) = bench["workloads"]
    assert workload["output_tokens"] == 1
    assert all(cell["error"] is None for cell in bench["cells"])


@pytest.mark.slow
def test_without_any_response_agreement_with_the_teacher_is_scored(finished: tuple[Path, Result]) -> None:
    root, _ = finished
    fitted = next(root.glob("store/fit/*/model"))  # a teacher that knows the task, and rows that say nothing
    (fitted / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    changes = (
        f"teacher.model={fitted}", "teacher.fit=null", "data.response=null", "data.unlabelled=null",
        "distill={loss: {forward_kl: 1}, epochs: 12, learning_rate: 3e-3, batch_size: 4, checkpoints: 0}",
        "export=[onnx:int8-dynamic]",
    )  # fmt: skip
    result = run(root, *(part for change in changes for part in ("--set", change)), out="bare")
    assert result.exit_code in (0, 3), result.output
    assert "no row has a response" in result.output
    found = report(root, "bare")
    scores = {model["id"]: model["score"]["value"] for model in found["models"]}
    assert found["metric"]["name"] == "agreement"
    assert not [each for each in found["verdict"]["warnings"] if each["kind"] == "class"]
    assert scores["teacher"] == 1.0
    assert scores["student"] >= 0.8
    assert "agreement" in (root / "bare" / "report.html").read_text().lower()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("teacher.ask.answers=[good]", "1 answers for 2 choices"),
        ("teacher.ask.answers=[' good', 'Good']", "differ in blanks or case alone"),
        ("teacher.ask.prompt='{{ text }} is'", "it names text"),
        ("teacher.ask.prompt=hello", "the same for every text"),
        ("signal={kind: gold}", "some rows have none"),
        ("student.init={from: teacher, layers: 1}", "no layers that a classifier is made of"),
        ("data.response=null", "to fit the teacher to"),
        ("teacher.ask.shots=4", "a fitted teacher has seen the rows"),
        ("distill.loss={forward_kl: 1, hidden: 1}", "has no layers to compare with"),
        ("data.unlabelled={source: nowhere.csv}", "data.unlabelled.source"),
        ("data.unlabelled={rows: 5, filter: text}", "is for a source of its own"),
        ("task=causal-lm", "teacher.ask is for task classification"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(place: Path, change: str, said: str) -> None:
    result = run(place, "--set", change, command="recipe check")
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split()), result.output


def test_the_report_shows_what_the_teacher_said_beside_how_the_student_agrees(finished: tuple[Path, Result]) -> None:
    page = (finished[0] / "out" / "report.html").read_text()
    assert "Labels by the teacher" in page
    assert "the likelihood of each answer, by the teacher itself" in page
    assert "agreement with teacher" in page
    assert "macro F1" in page
    text = (finished[0] / "out" / "report.md").read_text()
    assert "Corrections that were tried" in text


def test_a_teacher_that_cannot_write_is_told_what_teacher_ask_is_for(place: Path) -> None:
    result = run(place, "--set", f"teacher.model={place}/student", command="recipe check")
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert "teacher.ask is for a language model, which writes its answers" in said
    assert "take teacher.ask out, or name a language model" in said


def test_a_prompt_longer_than_the_teacher_s_positions_is_said_of_teacher_ask(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ("--set", "teacher.ask.max_length=100000")
    result = run(place, *long, command="recipe check")
    assert "teacher.ask.max_length is 100000, and teacher.model was made for" in " ".join(result.output.split())
    monkeypatch.setattr("distill2edge.preflight.models._TABLES", ("llama",))
    result = run(place, *long, command="recipe check")
    assert result.exit_code == 2, result.output
    assert "teacher.ask.max_length is 100000, and this model (llama) has" in " ".join(result.output.split())


def test_a_prompt_that_renders_to_nothing_names_its_row(place: Path) -> None:
    changes = (
        "--set",
        "teacher.ask.prompt='{% if \"dog\" in prompt %}{{ prompt }}{% endif %}'",
        "--set",
        "teacher.fit=null",
    )
    result = run(place, *changes, command="signal", out="empty")
    assert result.exit_code == 2, result.output
    assert "what the teacher is asked is empty for row" in result.output
    assert "teacher.ask.prompt" in result.output
    assert "good film" in result.output


def test_a_template_without_a_system_role_is_said_of_teacher_ask(place: Path) -> None:
    template = place / "teacher" / "chat_template.jinja"
    before = template.read_text()
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    try:
        template.write_text(refuses + before)
        changes = ("teacher.fit=null", "teacher.ask.template=chat", "teacher.ask.system='Be brief.'", "name=refused")
        result = run(place, *(part for each in changes for part in ("--set", each)), command="signal")
    finally:
        template.write_text(before)
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert "teacher.ask.template: the tokenizer's chat template refuses the messages" in said
    assert "leave teacher.ask.system out" in said
    assert "data.system" not in said


def planned(place: Path, *changes: str) -> float:
    """Seconds of the signal, as `plan` reckons."""
    result = run(place, *(part for each in changes for part in ("--set", each)), "--json", command="plan")
    assert result.exit_code == 0, result.output
    (found,) = [each for each in json.loads(result.stdout)["stages"] if each["stage"] == "signal"]
    return float(found["seconds"])


def test_plan_counts_each_reading_of_a_prompt_with_its_shots(place: Path) -> None:
    own = ("name=planned", "teacher.fit=null", "data.unlabelled.rows=59")
    once = planned(place, *own, "teacher.ask.answers=[' a', ' b']")
    many = planned(place, *own, "teacher.ask.answers=['one thing that is good', 'another thing that is bad']")
    shots = planned(place, *own, "teacher.ask.answers=[' a', ' b']", "teacher.ask.shots=8")
    assert many - 2.5 == pytest.approx(2 * (once - 2.5), rel=0.05)
    assert shots > once
