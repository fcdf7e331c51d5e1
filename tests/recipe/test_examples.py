"""The recipes come with the package, in a checkout and in a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill2edge.cli.main import main
from distill2edge.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["recipe", "examples", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_every_recipe_is_listed_and_printed() -> None:
    paths = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert len(paths) > 10
    lines = call()[1].splitlines()
    assert [line.split()[0] for line in lines] == sorted(str(p.relative_to(ROOT / "recipes"))[:-5] for p in paths)
    assert all(len(line.split()) > 5 for line in lines), "each says what it is for"
    assert call("quickstart") == (0, (ROOT / "recipes" / "quickstart.yaml").read_text(), "")


def test_a_misspelt_name_gets_a_hint() -> None:
    code, _, err = call("quikstart")
    assert code == 2
    assert "did you mean quickstart?" in err


def test_a_copy_brings_what_it_names(tmp_path: Path) -> None:
    code, out, _ = call("alpaca/alpaca", "--into", str(tmp_path / "recipes"))
    assert code == 0
    copied = tmp_path / "recipes" / "alpaca" / "alpaca.yaml"
    assert out.split() == [str(copied), str(copied.parent / "seed_tasks.jsonl")]
    assert CliRunner().invoke(main, ["recipe", "check", str(copied)]).exit_code == 0
    assert call("alpaca/alpaca", "--into", str(tmp_path / "recipes"))[0] == 0  # the same again
    copied.write_text("mine")
    assert call("alpaca/alpaca", "--into", str(tmp_path / "recipes"))[0] == 2
    assert copied.read_text() == "mine"
    call("self-improve/self-improve", "--into", str(tmp_path / "more"))
    assert (tmp_path / "more" / "nemotron" / "make_data.py").is_file()  # makes the rows that it names
    assert "seed_tasks.jsonl" in call("alpaca/alpaca")[2]
    assert call("--into", str(tmp_path))[0] == 2


def test_a_wheel_takes_every_file_beside_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    taken = {
        path for globs in project["tool"]["setuptools"]["data-files"].values() for g in globs for path in ROOT.glob(g)
    }
    kept = subprocess.run(["git", "ls-files", "recipes"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert {ROOT / name for name in kept} <= taken


@pytest.mark.slow
def test_an_installed_wheel_lists_them(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    source = tmp_path / "source"  # a build leaves folders in its source
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    for name in ("distill2edge", "recipes"):
        shutil.copytree(ROOT / name, source / name)

    def pip(*arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path)

    pip("wheel", "--no-deps", str(source), "-w", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip("--python", str(python), "install", "--no-deps", str(wheel))
    (site,) = (tmp_path / "venv" / "lib").glob("python3.*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [str(python), "-m", "distill2edge", "recipe", "examples"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == call()[1]


def test_what_a_form_of_a_task_cannot_do_is_not_done_by_default() -> None:
    recipe = load_recipe(ROOT / "recipes" / "multi-label" / "sentences.yaml", ["quantize.calibration=auto"])
    assert recipe.calibration_rows > 0
    assert not recipe.calibrates  # sets of labels: quantize.calibration is refused where it is asked for
    assert recipe.model_copy(update={"data": recipe.data.model_copy(update={"multi": False})}).calibrates
