"""A recipe with synthesis and a judge, the whole way: the teacher's rows train and test the student, as reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_llama

from distill2edge.cli.main import main
from distill2edge.gguf.reader import read_gguf

RECIPE = """\
name: made
teacher: {{model: {model}}}
data:
  source: {rows}
  template: plain
  prompt: "{{{{ instruction }}}}"
  response: "{{{{ response }}}}"
  max_length: 480
  splits: {{train: 16, validation: 0, calibration: 0, test: 2}}
  leakage: {{near_duplicate: 1.0}}
synthesis:
  methods:
    - {{kind: self-instruct, instructions: 12, max_requests: 60, batch: 20, shown: 2, of_own: 0, writing: {writing}}}
    - {{kind: reverse, texts: 12, shown: 1, writing: {writing}}}
  responses: {writing}
  min_words: 1
  held_out: {{validation: 1, test: 2}}
signal: {{kind: logits, top_k: 16}}
student: {{init: {{from: teacher, layers: 1}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, learning_rate: 1e-2, batch_size: 8}}
export: [gguf:Q8_0]
verify:
  rows: 2
  judge: {{model: {judge}, rows: 2, answer_tokens: 6, max_new_tokens: 3, prompt: "{{{{ first }}}}, {{{{ second }}}}?"}}
bench: {{workloads: [chat-8-3], rounds: 1, requests: 1}}
"""
WRITING = "{max_new_tokens: 200, temperature: 3.0, top_p: 1.0}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    tiny_llama(root / "teacher", layers=2)
    (root / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    tiny_llama(root / "judge", layers=1, seed=3)
    rows = [{"instruction": f"review film {n} of {n * 37}", "response": f"it is fine {n * 11}"} for n in range(24)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.format(model=root / "teacher", judge=root / "judge", rows=root / "rows.jsonl", writing=WRITING)
    (root / "made.yaml").write_text(text)
    return root


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--store", str(root / "store")])


def test_rows_of_the_teacher_reach_training_verification_report_card_and_file(place: Path) -> None:
    result = run(place, "run", str(place / "made.yaml"), "--out", str(place / "out"))
    assert result.exit_code == 0, result.output
    assert "rows kept; dropped:" in result.output
    report = json.loads((place / "out" / "report.json").read_text())
    rows = report["ledgers"]["synthesis"]
    assert set(rows["methods"]) == {"self-instruct", "reverse"}
    assert rows["kept"] + sum(rows["dropped"].values()) == rows["rows"]
    assert report["metric"]["rows"] == report["data"]["splits"]["test"]["rows"] == 2
    assert rows["not_distillation"] >= 1
    for name in ("report.md", "model_card.md", "report.html"):
        text = (place / "out" / name).read_text()
        assert "not distillation" in text, name
    made = read_gguf(place / "out" / "exports" / "made-gguf-Q8_0" / "model.gguf").get("distill2edge.synthetic_rows")
    assert made.startswith(f"{rows['kept']} of {rows['rows']} rows kept")


def test_the_files_are_judged_in_their_own_runtime_and_a_random_judge_is_not_read(place: Path) -> None:
    judge = json.loads((place / "out" / "judge.json").read_text())
    assert [entry["id"] for entry in judge["models"]] == ["student", "student/gguf:Q8_0"]
    for entry in judge["models"]:
        assert entry["error"] is None
        assert entry["pairs"] == 2
        counts = entry["counts"]
        assert counts["unreadable"] + counts["identical"] == 2
    assert judge["judge"]["akin"] == []
    for pair in judge["pairs"]:
        for student in pair["students"].values():
            assert (student["student_first"] is None) == (student["outcome"] == "identical")
    report = json.loads((place / "out" / "report.json").read_text())
    assert report["judge"]["models"] == judge["models"]
    assert "judge" in [stage["stage"] for stage in report["stages"]]
    assert "## The student's answers against the teacher's" in (place / "out" / "report.md").read_text()
    again = run(place, "run", str(place / "made.yaml"), "--out", str(place / "out"))
    assert "done in" not in again.output


def test_the_ledger_of_a_run_answers_why(place: Path) -> None:
    shown = CliRunner().invoke(main, ["data", "show", str(place / "out"), "--dropped", "--json"])
    assert shown.exit_code == 0, shown.output
    assert all(json.loads(line)["dropped_because"] for line in shown.stdout.splitlines())
