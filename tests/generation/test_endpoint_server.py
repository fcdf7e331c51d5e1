"""A real server, llama-cpp-python's own, as the teacher of a whole recipe: paid once, stopped by its budget."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tiny import tiny_bert, tiny_llama

from distill2edge.cli.main import main
from distill2edge.data.model_inputs import encode_for
from distill2edge.data.split_files import read_rows
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.export.gguf import export_gguf
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.teacher.logits import cache_logits
from distill2edge.util.progress import SilentProgress

pytest.importorskip("uvicorn")
META = {"name": "tiny", "licence": None, "teacher": None, "recipe": None, "recipe_key": None, "description": ""}
RECIPE = """\
name: served
teacher:
  model: endpoint:http://127.0.0.1:{port}/v1
  endpoint: {{model: tiny, key_env: SERVED_KEY, input_usd: 1.0, output_usd: 2.0, max_usd: 1.0, concurrency: 2}}
  licence: mit
data:
  source: {rows}
  template: chat
  prompt: "{{{{ text }}}}"
  response: "{{{{ label }}}}"
  max_length: 96
  splits: {{train: 16, validation: 2, calibration: 2, test: 4}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: text, max_new_tokens: 40, temperature: 1.5}}
student: {{init: {{model: {student}}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 1}}, learning_rate: 1e-2, batch_size: 8}}
export: [gguf:Q8_0]
verify: {{rows: 4}}
bench: {{workloads: [chat-8-3], rounds: 1, requests: 1}}
"""
ASKED = """\
name: asked
task: classification
teacher:
  model: endpoint:http://127.0.0.1:{port}/v1
  endpoint: {{model: tiny, key_env: SERVED_KEY, input_usd: 1.0, output_usd: 2.0, max_usd: 1.0, concurrency: 2}}
  licence: mit
  ask: {{prompt: "{{{{ prompt }}}} is one of {{{{ choices | join(' and ') }}}}", answers: [a, b, c, d, e, f]}}
data:
  source: {root}/rows.jsonl
  template: plain
  prompt: "{{{{ text }}}}"
  response: null
  choices: [A, B, C, D, E, F]
  max_length: 48
  splits: {{train: 12, validation: 2, calibration: 2, test: 6}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: labels}}
student: {{init: {{model: {root}/encoder, layers: 1}}, lora: null}}
distill: {{loss: {{forward_kl: 1}}, batch_size: 8}}
export: [onnx:int8-dynamic]
verify: {{rows: 6, max_kl: null}}
bench: {{workloads: [task], rounds: 1, requests: 1}}
"""
SCORED = """\
name: scored
teacher:
  model: endpoint:http://127.0.0.1:{port}/v1
  endpoint: {{model: tiny, key_env: SERVED_KEY, input_usd: 1.0, output_usd: 2.0, max_usd: 1.0, concurrency: 2}}
  licence: mit
data:
  source: {root}/rows.jsonl
  template: chat
  prompt: "{{{{ text }}}}"
  response: "{{{{ label }}}} 🙂 dogs"
  max_length: 96
  splits: {{train: 16, validation: 2, calibration: 2, test: 4}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: logits, top_k: 12, temperature: 1}}
student: {{init: {{model: {root}/student}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, learning_rate: 1e-2, batch_size: 8}}
export: [gguf:Q8_0]
verify: {{rows: 4}}
bench: {{workloads: [chat-8-3], rounds: 1, requests: 1}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("served")
    tiny_llama(root / "student")
    (root / "student" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    export_gguf(root / "student", parse_scheme("gguf:F32"), META, root / "gguf", SilentProgress())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "llama_cpp.server", "--model", str(root / "gguf" / "model.gguf")),
        *("--model_alias", "tiny", "--port", str(port), "--api_key", "right", "--n_ctx", "256", "--n_threads", "1"),
        *("--logits_all", "true"),
    ]
    log = (root / "server.log").open("wb")
    server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        _wait(port, server, root)
        rows = [{"text": f"film {n} the {n * 37} dog", "label": "fine"} for n in range(30)]
        (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = RECIPE.format(port=port, rows=root / "rows.jsonl", student=root / "student")
        (root / "served.yaml").write_text(text)
        tiny_bert(root / "encoder", layers=2, masked=True)
        (root / "encoder" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        (root / "scored.yaml").write_text(SCORED.format(port=port, root=root))
        (root / "asked.yaml").write_text(ASKED.format(port=port, root=root))
        yield root
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _wait(port: int, server: subprocess.Popen[bytes], root: Path) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": "Bearer right"})
    for _ in range(240):
        assert server.poll() is None, (root / "server.log").read_text()[-2000:]
        try:
            urllib.request.urlopen(request, timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError((root / "server.log").read_text()[-2000:])


def run(root: Path, *more: str, command: str = "run", key: str = "right") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    arguments = [command, str(root / "served.yaml"), "--store", str(root / "store"), *out, *more]
    return CliRunner(env={"SERVED_KEY": key}).invoke(main, arguments)


def answers(root: Path) -> list[str]:
    return [line for path in root.glob("store/**/answers.jsonl") for line in path.read_text().splitlines()]


def test_plan_shows_what_it_may_cost_before_anything_is_asked(place: Path) -> None:
    result = run(place, command="plan")
    assert result.exit_code == 0, result.output
    assert "16 requests" in result.stdout
    assert "budget $1" in result.stdout


def test_a_wrong_key_is_an_error_at_the_first_request_and_is_written_nowhere(place: Path) -> None:
    result = run(place, command="signal", key="wrong-secret")
    assert result.exit_code == 2, result.output
    assert "key_env" in result.output
    assert "wrong-secret" not in result.output


def test_the_budget_stops_it_cleanly_and_raised_it_goes_on_to_the_end(place: Path) -> None:
    short = run(place, "--set", "teacher.endpoint.max_usd=0.0006")
    assert short.exit_code == 2, short.output
    assert "the budget is reached" in short.output
    before = answers(place)
    assert before
    whole = run(place)
    assert whole.exit_code == 0, whole.output
    after = answers(place)
    assert after[: len(before)] == before  # nothing was paid twice
    assert len({json.loads(line)["key"] for line in after}) == len(after) == 16
    assert (place / "out" / "exports" / "served-gguf-Q8_0" / "model.gguf").is_file()
    report = json.loads((place / "out" / "report.json").read_text())
    assert {model["id"] for model in report["models"]} == {"student", "student/gguf:Q8_0"}
    rows = report["ledgers"]["signal"]
    assert rows["rows"] == 16
    assert rows["cost_usd"] == pytest.approx(sum(json.loads(line)["cost_usd"] for line in after))
    assert report["cost"]["one_off"]["teacher_generation_usd"] >= rows["cost_usd"]
    for path in (*place.glob("store/**/*.json*"), *place.glob("out/*")):
        if path.is_file():
            assert b"SERVED_KEY=" not in path.read_bytes()


def test_terms_that_deny_stop_before_the_first_request(place: Path) -> None:
    result = run(place, "--set", "teacher.licence=openai-api", command="teacher")
    assert result.exit_code == 2
    assert "does not permit training on outputs" in result.output


def run_scored(place: Path, store: str, *more: str, command: str = "run") -> Result:
    out = ["--out", str(place / f"out-{store}")] if command == "run" else []
    arguments = [command, str(place / "scored.yaml"), "--store", str(place / store), *out, *more]
    return CliRunner(env={"SERVED_KEY": "right"}).invoke(main, arguments)


def run_asked(place: Path, how: str, *more: str, store: str = "") -> Result:
    store = store or how
    arguments = ["run", str(place / "asked.yaml"), "--store", str(place / store), "--out", str(place / f"out-{store}")]
    return CliRunner(env={"SERVED_KEY": "right"}).invoke(
        main, [*arguments, "--set", f"teacher.ask.logprobs={how}", *more]
    )


def test_it_labels_the_texts_of_a_classifier(place: Path) -> None:
    result = run_asked(place, "auto")
    assert result.exit_code in (0, 3), result.output
    (facts,) = [json.loads(path.read_text()) for path in place.glob("auto/signal/*/signal.json")]
    assert facts["asked_by"] == "logprobs"
    assert facts["usd"] > 0
    report = json.loads((place / "out-auto" / "report.json").read_text())
    assert report["metric"]["name"] == "agreement"
    assert {model["id"] for model in report["models"]} == {"student", "student/onnx:int8-dynamic"}
    assert all(model["kl_teacher"] is not None for model in report["models"])


def test_a_teacher_that_babbles_is_an_error_with_what_it_said_and_no_labels(place: Path) -> None:
    result = run_asked(place, "never")
    assert result.exit_code == 2, result.output
    assert "answers are none of the choices, or several: for instance '" in result.output
    assert "teacher.ask.answers" in result.output
    assert not list(place.glob("never/signal/*/signal.json"))


def assert_scored_as_here(place: Path, store: str, template: str) -> None:
    """The shards of what the server said hold what transformers says of the same model, token by token."""
    (found,) = place.glob(f"{store}/signal/*/signal.json")
    recipe = parse_recipe((place / "scored.yaml").read_text(), "scored.yaml", [f"data.template={template}"])
    (data,) = place.glob(f"{store}/data/*")
    rows = [row for split in ("train", "validation") for row in read_rows(data, split)]
    encoded = encode_for(recipe.data, rows, place / "student")
    local = place / f"local-{store}"
    signal = LogitsSignal(top_k=400, temperature=1.0)
    cache_logits(place / "student", encoded, signal, local, SilentProgress(), dtype="float32")
    there, here, listed, slots = SignalReader(found.parent), SignalReader(local), 0, 0
    assert not there.missing(each.id for each in encoded)
    for each in encoded:
        said, known = there.get(each.id), here.get(each.id)
        every = torch.empty(each.supervised, 400).scatter(1, known.tokens, known.log_p)
        apart = (said.log_p - every.gather(1, said.tokens)).abs()
        own = (said.log_p - said.log_p[:, -1:]).abs() > 2e-3  # the others share what the server does not name
        assert apart[own].max() < 0.03  # llama.cpp keeps keys and values in 16 bits
        listed, slots = listed + int(own.sum()), slots + own.numel()
    assert listed > 0.6 * slots


def test_the_plan_says_what_scores_may_cost(place: Path) -> None:
    result = run_scored(place, "scored", command="plan")
    assert result.exit_code == 0, result.output
    assert "at most 18 requests" in result.stdout
    assert "budget $1" in result.stdout


def test_scores_teach_a_student_whose_file_is_verified_and_none_is_paid_twice(place: Path) -> None:
    short = run_scored(place, "scored", "--set", "teacher.endpoint.max_usd=0.0004", command="signal")
    assert short.exit_code == 2, short.output
    assert "the budget is reached" in short.output
    (left,) = place.glob("scored/**/answers.jsonl")
    before = left.read_text().splitlines()
    assert before
    result = run_scored(place, "scored")
    assert result.exit_code in (0, 3), result.output
    assert "the server scores a row by its text (echo)" in result.output
    (kept,) = place.glob("scored/signal/*/answers.jsonl")
    after = kept.read_text().splitlines()
    assert after[: len(before)] == before
    assert len({json.loads(line)["key"] for line in after}) == len(after) == 20  # 18 rows, and two to learn how
    assert_scored_as_here(place, "scored", "chat")
    (facts,) = [json.loads(path.read_text()) for path in place.glob("scored/signal/*/signal.json")]
    assert (facts["top_k"], facts["asked_top_k"], facts["dropped"]) == (12, 12, {})
    assert 0 < facts["tail_mass"] < 1
    assert (place / "out-scored" / "exports" / "scored-gguf-Q8_0" / "model.gguf").is_file()
    report = json.loads((place / "out-scored" / "report.json").read_text())
    assert {model["id"] for model in report["models"]} == {"student", "student/gguf:Q8_0"}
    assert report["cost"]["one_off"]["teacher_generation_usd"] >= facts["usd"] > 0


def test_scores_of_texts_that_no_bos_begins_are_put_where_they_belong(place: Path) -> None:
    result = run_scored(place, "plain", "--set", "data.template=plain", command="signal")
    assert result.exit_code == 0, result.output
    assert_scored_as_here(place, "plain", "plain")


def test_scores_of_another_tokenizer_are_refused_before_they_are_paid_for(place: Path) -> None:
    tiny_llama(place / "other", vocabulary=300)
    result = run_scored(place, "other", "--set", f"student.init.model={place / 'other'}", command="signal")
    assert result.exit_code == 2, result.output
    assert "the server's tokens are not those of student.init.model" in result.output
    assert len([line for path in place.glob("other/**/answers.jsonl") for line in path.read_text().splitlines()]) <= 8


@pytest.mark.slow
def test_it_labels_texts_by_answers_that_count(place: Path) -> None:
    grammar = "root ::= " + " | ".join(f'"{answer}"' for answer in "abcdef")  # the random teacher says nothing else
    extra = json.dumps({"grammar": grammar})
    sets = ("--set", f"teacher.endpoint.extra={extra}", "--set", "teacher.ask.samples=3")
    result = run_asked(place, "never", *sets, store="counted")
    assert result.exit_code in (0, 3), result.output
    (facts,) = [json.loads(path.read_text()) for path in place.glob("counted/signal/*/signal.json")]
    assert facts["asked_by"] == "samples"
    assert facts["unreadable"] == 0
    said = [json.loads(line) for path in place.glob("counted/signal/*/answers.jsonl") for line in path.open()]
    assert {record["text"] for record in said} <= set("abcdef")
    assert len({record["text"] for record in said}) > 1  # draws, not one answer over and over
    assert facts["answers"] == len(said)
