"""The whole path on a tiny random teacher: recipe in; files, report and exit code out; the second run reuses all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from light import loads
from tiny import tiny_recipe

from distill2edge.cli.main import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_recipe(root)
    return root


def run(root: Path, *more: str, command: str = "run") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(root / "tiny.yaml"), "--store", str(root / "store"), *out, *more])


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    result = run(place)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PASS")
    return place


def test_the_run_directory_has_the_files_and_the_evidence(finished: Path) -> None:
    out = finished / "out"
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"]["result"] == "pass"
    assert {model["id"] for model in report["models"]} >= {
        "teacher",
        "student",
        "student/onnx:int8",
        "student/gguf:Q8_0",
    }
    assert (out / "exports" / "tiny-gguf-Q8_0" / "model.gguf").stat().st_size > 10_000
    assert (out / "exports" / "tiny-onnx-int8" / "model.onnx").is_file()
    assert (out / "exports" / "tiny-onnx-int8" / "genai_config.json").is_file()
    assert "<html" in (out / "report.html").read_text()
    assert (out / "model_card.md").read_text().startswith("---")
    kl = {model["id"]: model["kl_student"] for model in report["models"]}
    assert kl["student/gguf:Q8_0"]["value"] < 0.01
    assert kl["student/onnx:int8"]["value"] < 0.01


def test_a_second_run_reuses_every_stage(finished: Path) -> None:
    result = run(finished)
    assert result.exit_code == 0
    assert "done in" not in result.stderr
    assert result.stderr.count("reused") == len(json.loads((finished / "out" / "run.json").read_text())["stages"])


def test_a_failed_gate_is_exit_code_3_without_a_headline(finished: Path) -> None:
    one = ("--set", "export=[gguf:Q8_0]", "--out", str(finished / "failed"))  # the last --out counts
    result = run(finished, "--set", "verify.max_kl=1e-6", *one, "--json")
    assert result.exit_code == 3
    summary = json.loads(result.stdout)
    assert summary["verdict"] == "fail"
    assert summary["headline"] is None


def test_plan_shows_everything_cached(finished: Path) -> None:
    result = run(finished, "--json", command="plan")
    assert result.exit_code == 0, result.output
    assert all(stage["cached"] for stage in json.loads(result.stdout)["stages"])


def test_neither_a_plan_nor_a_run_of_what_is_there_loads_a_heavy_library(finished: Path) -> None:
    recipe = (finished / "tiny.yaml", "--store", finished / "store")
    run(finished, command="plan")  # measures the machine's speed, where that is not known
    assert loads("plan", *recipe) == []
    assert loads("run", *recipe, "--out", finished / "out") == []


def test_another_converter_makes_the_gguf_anew_and_nothing_else(finished: Path) -> None:
    script = finished / "convert.py"
    script.write_text("# a llama.cpp checkout's script\n")
    result = run(finished, "--json", "--converter", str(script), command="plan")
    assert result.exit_code == 0, result.output
    missing = [stage["stage"] for stage in json.loads(result.stdout)["stages"] if not stage["cached"]]
    assert missing == ["export student/gguf:Q8_0", "verify", "bench", "report"]
    result = run(finished, "--converter", str(finished / "none.py"), command="plan")
    assert result.exit_code == 2
    assert "convert_hf_to_gguf.py" in result.stderr


def test_the_watts_of_a_named_machine_give_the_energy(finished: Path) -> None:
    one = ("--set", "export=[gguf:Q8_0]", "--set", "bench.torch=false")
    result = run(finished, "--set", "bench.machine=raspberry-pi-5", *one, command="bench")
    assert result.exit_code == 0, result.output
    bench = json.loads((Path(result.stdout.split(": ", 1)[1].strip()) / "bench.json").read_text())
    energy = [cell["workloads"]["task"]["energy"] for cell in bench["cells"]]
    assert {one["label"] for one in energy} <= {"estimated", "measured"}
    assert all(one["joules_per_request"] > 0 for one in energy)
    result = run(finished, "--set", "bench.machine=raspberry-pi", command="plan")
    assert result.exit_code == 2
    assert "raspberry-pi-5" in result.stderr


@pytest.mark.parametrize("scheme", ["gguf:Q8_0", "onnx:int8"])
def test_chat_answers_from_each_export(finished: Path, scheme: str) -> None:
    args = ["chat", str(finished / "out"), "--scheme", scheme, "--prompt", "Review: good", "--max-tokens", "4"]
    result = CliRunner().invoke(main, [*args, "--template", "plain"])
    assert result.exit_code == 0, result.output


def test_a_teacher_without_a_licence_is_refused(finished: Path) -> None:
    card = finished / "teacher" / "README.md"
    text = card.read_text()
    card.unlink()
    try:
        result = run(finished, "--set", "seed=1", command="teacher")
    finally:
        card.write_text(text)
    assert result.exit_code == 2
    assert "licence" in result.stderr


def test_a_misspelt_machine_is_refused_before_any_work(finished: Path) -> None:
    result = run(finished, "--set", "cost.student={rented: cpu-2-vcpuu}")
    assert result.exit_code == 2
    assert "cpu-2-vcpu" in result.stderr


def test_a_fitted_teacher_does_not_answer_through_its_unfitted_gguf(finished: Path) -> None:
    more = ("--set", "teacher.fit={max_steps: 1, lora: {rank: 2}}", "--set", "teacher.backend=llama.cpp")
    gguf = finished / "out" / "exports" / "tiny-gguf-Q8_0" / "model.gguf"
    teacher = ("--set", f"teacher.model={gguf}", "--set", "teacher.licence=apache-2.0")
    result = run(finished, *teacher, *more, command="signal")
    assert result.exit_code == 2
    assert "teacher.backend: transformers" in result.stderr
