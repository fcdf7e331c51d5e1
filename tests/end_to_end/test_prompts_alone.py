"""Rows of prompts alone and an endpoint as the teacher: its answers train the student and score its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_llama

from distill2edge.cli.main import main

TESTS = Path(__file__).parents[1]
RECIPE = """\
name: prompts
teacher:
  model: endpoint:http://127.0.0.1:{port}/v1
  endpoint: {{model: words, key_env: null, input_usd: 1.0, output_usd: 2.0, max_usd: 1.0, concurrency: 2}}
  licence: mit
data:
  source: {root}/rows.jsonl
  template: plain
  response: null
  max_length: 96
  splits: {{train: 16, validation: 2, calibration: 2, test: 4}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: text, max_new_tokens: 40}}
student: {{init: {{model: {root}/student}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 1}}, learning_rate: 1e-2, batch_size: 8}}
export: [gguf:Q8_0]
verify: {{rows: 4, max_kl: null}}
bench: {{workloads: [chat-8-3], rounds: 1, requests: 1}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("prompts")
    tiny_llama(root / "student", layers=1)
    rows = [{"prompt": f"review film {number} of {number * 37}"} for number in range(30)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = subprocess.Popen(
        [sys.executable, str(TESTS / "crash" / "endpoint.py"), str(root / "asked")], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    (root / "prompts.yaml").write_text(RECIPE.format(port=int(server.stdout.readline()), root=root))
    yield root
    server.terminate()
    server.wait()


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [arguments[0], str(root / "prompts.yaml"), *arguments[1:]])


def asked(root: Path) -> list[str]:
    return (root / "asked").read_text().split() if (root / "asked").exists() else []


def test_the_teacher_answers_every_row_once_and_the_files_are_scored_by_its_answers(place: Path) -> None:
    store = ("--store", str(place / "store"))
    planned = json.loads(run(place, "plan", *store, "--json").stdout)
    assert planned["endpoint"]["requests"] == 16 + 2 + 2 + 4
    assert "references" in [stage["stage"] for stage in planned["stages"]]
    assert not asked(place)
    result = run(place, "run", *store, "--out", str(place / "out"))
    assert result.exit_code == 0, result.output
    assert "no row has a response: the teacher's answers stand in for them" in result.output
    assert len(asked(place)) == len(set(asked(place))) == 16 + 2 + 2 + 4
    report = json.loads((place / "out" / "report.json").read_text())
    assert report["data"]["splits"]["test"]["rows"] == report["metric"]["rows"] == 4
    assert set(report["ledgers"]) == {"references", "signal"}
    assert report["ledgers"]["references"]["rows"] == 8
    for name in ("report.md", "report.html"):
        text = (place / "out" / name).read_text()
        assert "No row had a response" in text.replace(os.linesep, " "), name


def test_another_training_pays_for_no_answer_again(place: Path) -> None:
    before = len(asked(place))
    assert before
    more = ("--set", "signal.temperature=0.5", "--set", "distill.epochs=2")
    result = run(place, "distill", "--store", str(place / "store"), *more)
    assert result.exit_code == 0, result.output
    assert len(asked(place)) == before + 16  # the training rows at another temperature; the held-out ones are kept


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("data.choices=[a, b]", "data.choices starts from responses"),
        ("distill.control=true", "to train a control on"),
        ("signal={kind: logits}", "learns from responses, and some rows have none"),
    ],
)
def test_what_starts_from_responses_is_refused_first(place: Path, more: str, said: str) -> None:
    result = run(place, "plan", "--set", more)
    assert result.exit_code == 2
    assert said in result.output


def test_answers_are_taken_over_where_the_stage_changes_and_the_requests_do_not(place: Path) -> None:
    before = len(asked(place))
    assert before
    store, more = ("--store", str(place / "store")), ("--set", "data.max_length=97")
    result = run(place, "signal", *store, *more)
    assert result.exit_code == 0, result.output
    assert "endpoint: 16 of 16 answers were paid for by an earlier run" in result.output
    assert len(asked(place)) == before
    (facts,) = [
        facts["endpoint"]
        for path in (place / "store" / "signal").glob("*/manifest.json")
        if (facts := json.loads(path.read_text())["facts"])["endpoint"]["reused"]
    ]
    assert facts["reused"] == 16
    assert facts["usd"] > 0  # what they did cost: the student's price is the same
    result = run(place, "run", *store, *more, "--force", "signal", "--out", str(place / "again"))
    assert result.exit_code == 0, result.output
    assert len(asked(place)) == before + 16  # asked for again, so asked again
