"""The command line as a user sees it: help, errors with the fix, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import report_fixtures as made
from click.testing import CliRunner

from distill2edge.cli.doctor import check_environment
from distill2edge.cli.main import KINDS, main

MINIMAL = """\
name: x
teacher: {model: a}
data: {source: b}
student: {init: {from: teacher, layers: 3}}
"""


def call(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(args))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", [[], ["run"], ["plan"], ["chat"], ["compare"], ["recipe", "new"], ["store", "gc"]])
def test_every_command_has_help(command: list[str]) -> None:
    code, out, _ = call(*command, "--help")
    assert code == 0
    assert "Usage:" in out


def test_the_stages_are_commands_of_their_own() -> None:
    assert {kind for kind, stage in KINDS.items() if stage.command} <= set(main.commands)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['distill2edge', '--help']\nfrom distill2edge.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'pydantic', 'transformers', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_recipe_errors_are_shown_at_once_and_exit_with_2(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL + "studnet: 3\nexport: [gguf:Q5]\n")
    code, _, err = call("recipe", "check", str(path))
    assert code == 2
    assert "did you mean student?" in err
    assert f"{path}:5" in err
    assert "Traceback" not in err


def test_recipe_new_show_check_and_schema_work_together(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(call("recipe", "new", "--name", "bot")[1])
    assert call("recipe", "check", str(path))[0] == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(call("recipe", "show", str(path), "--set", "distill.epochs=7")[1])
    assert "epochs: 7" in shown.read_text()
    assert call("recipe", "check", str(shown))[0] == 0
    assert json.loads(call("recipe", "schema")[1])["title"] == "Recipe"


def test_a_missing_data_file_is_an_error_with_the_fix_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL.replace("source: b", f"source: {tmp_path}/rows.jsonl"))
    code, _, err = call("run", str(path), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "rows.jsonl" in err
    assert not (tmp_path / "out").exists()


def test_report_of_a_directory_without_a_run(tmp_path: Path) -> None:
    code, _, err = call("report", str(tmp_path))
    assert code == 2
    assert "no report here" in err


def test_a_directory_that_is_not_there_is_no_recipe_to_run(tmp_path: Path) -> None:
    code, _, err = call("report", str(tmp_path / "nope"))
    assert code == 2
    assert "nothing there" in err
    assert "give a run directory" in err


def test_a_plan_refuses_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 2000)
    (tmp_path / "r.yaml").write_text(MINIMAL.replace("model: a", "model: bundled:smollm2-135m-instruct")
                                     .replace("source: b", f"source: {tmp_path / 'rows.jsonl'}"))  # fmt: skip
    (tmp_path / "store").write_text("x")
    code, _, err = call("plan", str(tmp_path / "r.yaml"), "--store", str(tmp_path / "store"))
    assert code == 2
    assert "a file stands where the store should be" in err


def test_an_empty_store_is_said_to_be_empty(tmp_path: Path) -> None:
    code, out, _ = call("store", "ls", "--store", str(tmp_path))
    assert code == 0
    assert "empty" in out


def test_doctor_finds_this_environment_complete() -> None:
    code, out, _ = call("doctor", "--json")
    checks = {item["name"]: item for item in json.loads(out)}
    assert code == 0
    assert checks["torch"]["state"] == "fine"
    assert checks["llama-cpp-python"]["state"] == "fine"
    assert all(item["fix"] for item in checks.values() if item["state"] == "missing")


def test_doctor_says_where_a_teachers_work_can_be_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    checks = {item["name"]: item for item in check_environment()}
    assert checks["workers"]["state"] == "note"
    assert "127.0.0.1:1" in checks["workers"]["detail"]
    assert checks["workers"]["fix"]
    monkeypatch.delenv("RAY_ADDRESS")
    checks = {item["name"]: item for item in check_environment()}
    assert checks["workers"]["detail"].startswith("Ray ")


def test_doctor_says_which_runtimes_were_built_for_the_gpu_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: "A card")
    monkeypatch.setattr("llama_cpp.llama_supports_gpu_offload", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    checks = {item["name"]: item for item in check_environment()}
    assert checks["gpu"]["detail"] == "A card"
    assert checks["ONNX Runtime on the gpu"]["state"] == "fine"
    assert checks["llama.cpp on the gpu"]["state"] == "note"
    assert "DGGML_CUDA=on" in checks["llama.cpp on the gpu"]["fix"]


def test_an_internal_error_is_one_line_and_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    import distill2edge.running.starter

    monkeypatch.setattr(distill2edge.running.starter, "starter", lambda asked: 1 / 0)
    code, _, err = call("recipe", "new")
    assert code == 1
    assert "ZeroDivisionError" in err
    assert "Traceback" not in err


def test_python_dash_m_runs_the_same_command_line() -> None:
    result = subprocess.run([sys.executable, "-m", "distill2edge", "--version"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "distill2edge" in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_what_is_typed(shell: str) -> None:
    """The scripts that docs/cli.md names, and what they ask for: commands that begin with what was typed."""
    run = [sys.executable, "-c", "from distill2edge.cli.main import main; main(prog_name='distill2edge')"]
    script = subprocess.run(run, env={**os.environ, "_DISTILL2EDGE_COMPLETE": f"{shell}_source"}, capture_output=True)
    assert b"_DISTILL2EDGE_COMPLETE" in script.stdout
    typed = {"COMP_WORDS": "distill2edge rec", "COMP_CWORD": "rec" if shell == "fish" else "1"}
    asked = {**os.environ, **typed, "_DISTILL2EDGE_COMPLETE": f"{shell}_complete"}
    found = subprocess.run(run, env=asked, capture_output=True, text=True).stdout
    assert "recipe" in found
    assert "bench" not in found


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["--force", "exprot"], "export"),
        (["--force", "quantisation-aware"], "quantization-aware"),
        (["--track", "tensorbord"], "tensorboard"),
    ],
)
def test_a_word_of_a_closed_set_that_is_mistyped_names_the_one_meant(args: list[str], meant: str) -> None:
    code, _, err = call("run", "r.yaml", *args)
    assert code == 2
    assert f"Did you mean '{meant}'?" in err
    assert "Did you mean" not in call("run", "r.yaml", "--force", "xyz")[2]


def seeds_run(root: Path, seeds: list[int]) -> Path:
    run = root / "runs" / "x"
    report = made.report()
    (run / "exports").mkdir(parents=True)  # as an earlier run of one seed left it
    (run / "report.json").write_text(json.dumps({**report, "seeds": {"seeds": seeds, "runs": []}}))
    return run


@pytest.mark.parametrize("command", [["chat"], ["push"]])
def test_what_reads_files_of_a_run_over_several_seeds_names_where_they_are(tmp_path: Path, command: list[str]) -> None:
    run = seeds_run(tmp_path, [3, 1])
    code, _, err = call(*command, str(run), *(["me/x", "--allow-failed"] if command == ["push"] else []))
    assert code == 2
    assert "a run over several seeds: each has files of its own (seed-3, seed-1)" in err
    assert f"distill2edge {command[0]} {run / 'seed-3'}" in err


@pytest.mark.parametrize(
    "command", [["run"], ["recipe", "check"], ["report"], ["compare"], ["chat"], ["store", "ls", "--store"]]
)
def test_paths_that_can_be_none_are_mistakes_of_the_user(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for path, said in (
        ("", "an empty path"),
        ("a" * 300, "too long"),
        ("n\udcff", "no UTF-8"),
        ("a\0b", "cannot be a path"),
    ):
        code, _, shown = call(*command, path)
        assert code == 2, shown
        assert said in shown
    monkeypatch.setenv("DISTILL2EDGE_STORE", "a" * 300)
    code, _, shown = call("store", "ls")
    assert code == 2, shown
    assert "too long" in shown


def test_fetch_prints_where_a_bundled_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill2edge.intake.bundled.fetch", lambda name, progress: tmp_path / name)
    assert call("fetch", "movie-sentiment") == (0, f"{tmp_path / 'movie-sentiment'}\n", "")


@pytest.mark.parametrize("key", ["teacher.model", "student.init.model", "data.source"])
def test_a_name_that_is_too_long_for_a_file_is_a_mistake_of_the_recipe(tmp_path: Path, key: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL)
    extra = ["--set", f"student.init={{model: {'m' * 300}}}"] if key.startswith("student") else []
    code, _, err = call("recipe", "check", str(path), *(extra or ["--set", f"{key}={'m' * 300}"]))
    assert code == 2
    assert "too long" in err or "no model" in err or "does not exist" in err, err
    assert "internal error" not in err
