"""What the README says holds: its commands run, its figures are those of the result files, its links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import tiny_recipe

from distill2edge.cli.main import main
from distill2edge.export.support import GGUF, ONNX_DECODERS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
]


def commands(program: str) -> list[list[str]]:
    found = [line[1:] for line in LINES if line[0] == program]
    assert found, f"the README shows no {program} command"
    return found


def test_the_readme_shows_no_other_program() -> None:
    assert {line[0] for line in LINES} == {"make", "distill2edge", "python"}


def test_its_commands_run_in_the_order_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL2EDGE_STORE", str(tmp_path / "store"))
    other = tiny_recipe(tmp_path, "other")
    for arguments in commands("distill2edge"):
        target = None
        if ">" in arguments:
            arguments, target = arguments[: arguments.index(">")], arguments[-1]
        if arguments[0] == "plan":
            # From here on the recipe is run: the same file, with a teacher of two layers in place of the real one.
            (tmp_path / "my.yaml").write_text(other.read_text().replace("name: other", "name: my"))
        if arguments[0] == "compare":
            assert CliRunner().invoke(main, ["run", str(other)]).exit_code == 0
        result = CliRunner().invoke(main, arguments, input="Review: good\n")
        assert result.exit_code == 0, f"distill2edge {shlex.join(arguments)}\n{result.output}"
        if target:
            (tmp_path / target).write_text(result.stdout)
    assert (tmp_path / "runs" / "my" / "report.html").is_file()
    for arguments in commands("python"):  # what ships runs alone
        result = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip()


def test_its_make_targets_exist() -> None:
    named = [arguments[0] for arguments in commands("make")]
    assert named[:2] == ["quickstart", "test"]
    for extra in re.findall(r"`make help` lists the other targets: (.*?)\.$", README, re.M | re.S):
        named += re.findall(r"`([a-z-]+)`", extra)
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(named) <= set(re.findall(r"^  make ([a-z-]+)", listed, re.M))


def test_its_table_is_the_result_file() -> None:
    metrics = json.loads((ROOT / "benchmarks" / "results" / "quickstart.json").read_text())["metrics"]
    rows = {
        cells[0].split(":")[0]: cells[1:]
        for line in README.splitlines()
        if line.startswith("| ") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    shown = {
        "teacher": "teacher",
        "teacher as GGUF Q8_0, the baseline to beat": "teacher/gguf:Q8_0",
        "student": "student",
        "the same student without the teacher": "control",
        "student as GGUF Q8_0": "student/gguf:Q8_0",
        "student as ONNX int8": "student/onnx:int8",
    }
    for label, model in shown.items():
        assert float(rows[label][0]) == pytest.approx(metrics["models"][model]["score"]["value"], abs=5e-4), label


def test_its_second_table_is_the_result_file_too() -> None:
    accuracy = json.loads((ROOT / "benchmarks" / "results" / "llm_to_encoder.json").read_text())["metrics"]["accuracy"]
    rows = {
        cells[0]: cells[1]
        for line in README.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    shown = {
        "SmolLM2-135M-Instruct, fitted and asked": "teacher",
        "the same as GGUF Q8_0": "teacher/gguf:Q8_0",
        "MiniLM of three layers as ONNX int8-dynamic": "student/onnx:int8-dynamic",
        "the same layers, trained on the 400 labels alone": "student of the 400 labelled rows alone",
    }
    for label, model in shown.items():
        assert float(rows[label]) == pytest.approx(accuracy[model]["value"], abs=5e-4), label


def test_its_models_are_those_of_the_table() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if line[:2] == "| "]
    named = {files: models for _, models, files in [row for row in rows if len(row) == 3 and "ONNX" in row[2]][:2]}
    both = [GGUF[name].label for name in GGUF if name in ONNX_DECODERS]
    assert named["ONNX and GGUF"] == ", ".join(both)
    assert named["ONNX"] == ", ".join(carries.label for name, carries in ONNX_DECODERS.items() if name not in GGUF)


def test_its_places_exist() -> None:
    tree = README.partition("## Where things are")[2]
    shown = {
        name for line in tree.splitlines() if line.startswith("      ") for name in re.findall(r"\b([a-z]+)/", line)
    }
    package = {path.name for path in (ROOT / "distill2edge").iterdir() if (path / "__init__.py").is_file()}
    assert shown == package - {"util"}


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_make_quickstart(tmp_path: Path) -> None:
    """The main job, from an empty store; its gates hold."""
    done = subprocess.run(
        ["make", "quickstart", f"VENV={sys.prefix}"],
        cwd=ROOT,
        env={**os.environ, "DISTILL2EDGE_STORE": str(tmp_path / "store"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^PASS ", done.stdout, re.M)
    report = json.loads((ROOT / "runs" / "quickstart" / "report.json").read_text())
    assert report["verdict"]["result"] == "pass"
    assert all(gate["passed"] for gate in report["gates"])
