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
from click.testing import CliRunner, Result
from tiny import tiny_bert, tiny_llama

from distill2edge.cli.main import main
from distill2edge.export.gguf import export_gguf
from distill2edge.quantize.schemes import parse_scheme
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


def run_asked(place: Path, how: str) -> Result:
    arguments = ["run", str(place / "asked.yaml"), "--store", str(place / how), "--out", str(place / f"out-{how}")]
    return CliRunner(env={"SERVED_KEY": "right"}).invoke(main, [*arguments, "--set", f"teacher.ask.logprobs={how}"])


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
