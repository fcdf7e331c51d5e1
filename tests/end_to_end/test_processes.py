"""Two processes train as one: the same curves, keys and weights; and whatever ends one loses nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file
from tiny import tiny_recipe

from distill2edge.processes.group import trained_by
from distill2edge.processes.local_group import LocalGroup
from distill2edge.util.progress import SilentProgress
from tests import process_cases as cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
PROGRAMS = {
    "distill2edge": "distill2edge",
    "torchrun": "torch.distributed.run",
    "accelerate": "accelerate.commands.accelerate_cli",
}
SETTINGS = ["--set", "distill.dtype=float32", "--set", "distill.batch_size=7"]
LONG = [*SETTINGS, "--set", "distill.epochs=300", "--set", "distill.checkpoints=150"]
MEDIUM = [*SETTINGS, "--set", "distill.epochs=80", "--set", "distill.checkpoints=40"]
DIFFER = """
import os
from distill2edge.cli.main import main
epochs = "distill.epochs=" + os.environ["RANK"] + "1"
main(["distill", {recipe!r}, "--store", {store!r}, "--out", {out!r}, "--set", epochs])
"""


def weights(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor of a directory's files."""
    found = sorted(directory.rglob("*.safetensors"))
    return {f"{path.name}:{name}": value for path in found for name, value in load_file(path).items()}


def close(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Within rounding: Adam turns a gradient that is rounding itself into a step, so not every weight."""
    assert a.keys() == b.keys()
    assert a
    apart = np.concatenate([np.abs(a[name].astype(np.float64) - b[name]).ravel() for name in a])
    assert (apart < 1e-5).mean() > 0.995
    assert apart.max() < 2e-3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case, by one process and by two."""
    place = tmp_path_factory.mktemp("cases")
    cases.make(place)
    cases.train_all(place, place / "1", SilentProgress())
    with trained_by(LocalGroup(2)):
        assert cases.train_all(place, place / "2", SilentProgress()) == list(cases.CASES)
    return place


@pytest.mark.parametrize("name", cases.CASES)
def test_two_processes_train_as_one(name: str, trained: Path) -> None:
    one, two = (cases.curves(trained / count / name) for count in "12")
    assert one["counts"] == two["counts"]
    for curve in ("loss", "validation"):
        assert two[curve] == pytest.approx(one[curve], abs=1e-4)
    assert len(one["loss"]) >= 9
    close(*(weights(trained / count / name) for count in "12"))


# --- the commands of docs/scale.md ----------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and a store that has all that its training reads."""
    root = tmp_path_factory.mktemp("runs")
    tiny_recipe(root, "tickets")
    done = finish(start(["distill2edge", "run", "tickets.yaml", *SETTINGS], root))
    assert done[0] == 0, done[1]
    return root


def start(command: list[str], root: Path, store: str = "store", **more: str) -> subprocess.Popen[str]:
    """Start a command of the page, its standard error kept."""
    program, *rest = command
    environment = {**os.environ, "DISTILL2EDGE_STORE": str(root / store), "OMP_NUM_THREADS": "1", **more}
    return subprocess.Popen(
        [sys.executable, "-m", PROGRAMS[program], *rest], cwd=root, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what was said."""
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def commands() -> list[str]:
    """The commands of the page's first section."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Training on several")[2].partition("\n## ")[0]
    return [line for block in re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S) for line in block.splitlines()]


def taken_back(root: Path, store: str) -> Path:
    """A store whose student is not trained yet."""
    shutil.copytree(root / "store", root / store)
    for stage in ("distill", "merge"):
        shutil.rmtree(root / store / stage)
    return root / store


@pytest.mark.parametrize("number", range(4))
def test_a_command_of_the_page(number: int, place: Path) -> None:
    assert len(commands()) == 4
    line, store = commands()[number], taken_back(place, f"store-{number}")
    line = line.replace("node-1:29500", "localhost:29517").replace("/shared/store", str(store))
    machines = int((re.findall(r"--nnodes (\d+)", line) or [1])[0])
    done = [
        finish(each) for each in [start([*shlex.split(line), *SETTINGS], place, store.name) for _ in range(machines)]
    ]
    assert all(code == 0 for code, _ in done), "\n".join(said for _, said in done)
    said = "".join(said for _, said in done)
    assert said.count("] report: reused") == 1, said  # one process reports; what reads the student finds the same keys
    for stage in ("distill", "merge"):
        (one,), (two,) = ((place / each / stage).iterdir() for each in ("store", store.name))
        assert one.name == two.name
        close(weights(one), weights(two))


# --- what ends ----------------------------------------------------------------------------


def checkpointed(process: subprocess.Popen[str], store: Path) -> None:
    """Wait for the training's first checkpoint."""
    end = time.monotonic() + 300
    while not list(store.glob("partial/distill-*/checkpoints/checkpoint-*/complete")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def members(process: subprocess.Popen[str]) -> Iterator[tuple[int, psutil.Process]]:
    """The training processes with their numbers."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if rank := child.environ().get("RANK"):
            yield int(rank), child


@pytest.mark.parametrize("launcher", ["distill2edge", "torchrun"])
def test_a_process_that_is_killed_ends_the_others_with_one_error(launcher: str, place: Path) -> None:
    store = taken_back(place, f"killed-{launcher}")
    own = ["distill2edge", "distill", "tickets.yaml", *MEDIUM]
    launched = ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", *own]
    command = [*own, "--processes", "2"] if launcher == "distill2edge" else launched
    process = start(command, place, store.name)
    checkpointed(process, store)
    crew = dict(members(process))
    assert set(crew) == {0, 1}
    crew[1].send_signal(signal.SIGKILL)
    code, said = finish(process)
    assert code == (4 if launcher == "distill2edge" else 1)
    ours = said.partition("torch.distributed.elastic.multiprocessing.errors")[0]
    assert len(re.findall(r"^error: ", ours, re.M)) == 1, said
    assert "goes on from the last checkpoint" in ours
    if launcher == "distill2edge":
        assert "training process 1: the process was killed by SIGKILL" in said
        assert "Traceback" not in said
    psutil.wait_procs(crew.values(), timeout=10)
    assert not any(each.is_running() for each in crew.values())

    code, said = finish(start(own, place, store.name))  # one process goes on with what two have begun
    assert code == 0, said
    assert re.search(r"resuming from checkpoint-\d+ of \d+ steps", said)


def test_a_request_to_end_loses_nothing(place: Path) -> None:
    """And what one process has begun two go on with."""
    store = taken_back(place, "asked")
    first = start(["distill2edge", "distill", "tickets.yaml", *LONG], place, store.name)
    checkpointed(first, store)
    first.terminate()
    code, said = finish(first)
    assert code == 143, said
    second = start(["distill2edge", "distill", "tickets.yaml", *LONG, "--processes", "2"], place, store.name)
    assert second.stderr is not None
    said = ""
    while "resuming from checkpoint-" not in said:
        said += second.stderr.readline()
    time.sleep(3)
    second.terminate()
    code, rest = finish(second)
    assert code == 143, rest
    (step,) = re.findall(r"stopped at step (\d+) of \d+; a checkpoint is saved", rest)
    (begun,) = re.findall(r"resuming from checkpoint-(\d+)", said)
    assert int(step) >= int(begun)
    assert list(store.glob(f"partial/distill-*/checkpoints/checkpoint-{step}/complete"))


def test_processes_with_other_recipes_are_told_apart(place: Path) -> None:
    store, script = taken_back(place, "other"), place / "other.py"
    script.write_text(DIFFER.format(recipe="tickets.yaml", store=str(store), out=str(place / "other-out")))
    code, said = finish(start(["torchrun", "--standalone", "--nproc-per-node", "2", str(script)], place, store.name))
    ours = said.partition("torch.distributed.elastic.multiprocessing.errors")[0]
    assert code == 1
    assert len(re.findall(r"^error: ", ours, re.M)) == 1, said
    assert "another recipe than process 0: 'epochs: 11.0', not 'epochs: 1.0'" in ours
    assert not list(store.glob("distill/*"))
