"""A cluster of two workers on this machine: the shards of one process, whoever is killed in the middle."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import tiny_recipe

from distill2edge.errors import EnvironmentFault
from distill2edge.recipe.teacher_workers import Workers
from distill2edge.util import threads
from distill2edge.util.progress import SilentProgress
from distill2edge.workers import preflight
from distill2edge.workers.mapping import shared_out
from distill2edge.workers.ray_cluster import refused
from tests import worker_cases as cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
TWO = Workers(replicas=2)
OPEN = {"RAY_AUTH_MODE": "disabled"}
"""Of every node and every driver of a cluster: Ray's commands and its library have other defaults."""


class Told(SilentProgress):
    """A progress that is read."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    warn = say


def actors(of: int | None = None) -> list[psutil.Process]:
    """The processes of workers that a process has started, or this one."""
    found = psutil.Process(of).children(recursive=True)
    return [each for each in found if each.is_running() and "ray::Worker" in " ".join(each.cmdline())]


def of_ray(of: int | None = None) -> list[psutil.Process]:
    """Every process of a cluster that a process has started."""
    return [each for each in psutil.Process(of).children(recursive=True) if "ray" in " ".join(each.cmdline())]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("teachers")
    cases.make(root)
    return root


@contextmanager
def one_thread() -> Iterator[None]:
    """As many as each worker has: with another number the last bit of a float32 may be another."""
    import torch

    before = threads._limit, torch.get_num_threads()
    threads._limit = 1
    torch.set_num_threads(1)
    yield
    threads._limit = before[0]
    torch.set_num_threads(before[1])


def test_two_workers_make_the_shards_of_one_process(place: Path, tmp_path: Path) -> None:
    """One cluster for all kinds, gone in the end."""
    told, chosen = Told(), {name: cases.CASES[name] for name in cases.ON_CLUSTER}
    with one_thread():
        for name, case in chosen.items():
            case(place, tmp_path / "one" / name, SilentProgress())
    with shared_out(TWO, told):
        for name, case in chosen.items():
            case(place, tmp_path / "two" / name, told)
    for name in chosen:
        wanted = cases.shards(tmp_path / "one" / name)
        assert len(wanted) == 4
        assert cases.shards(tmp_path / "two" / name) == wanted, name
    assert [line for line in told.said if "shards by" in line] == [
        line for line in told.said if "4 shards by 2 workers on" in line and "lost" not in line
    ]
    psutil.wait_procs(of_ray(), timeout=20)
    assert not of_ray()


SLOW = """
import os, sys, time
from pathlib import Path
from distill2edge.recipe.teacher_workers import Workers
from distill2edge.util import interrupts, progress
from distill2edge.workers.mapping import map_shards, shared_out
from tests.workers.slow_pass import Slow

work, count = Path(sys.argv[1]), int(sys.argv[3])
with interrupts.caught():
    shown = progress.PlainProgress(0.0)
    todo = [number for number in range(count) if not (work / f"{number}.txt").exists()]
    with shared_out(Workers(replicas=2, ray=sys.argv[2]), shown), shown.task("shards", count) as task:
        for number, made in map_shards(Slow(work / "log"), ((n, n) for n in todo), len(todo), task):
            (work / f"{number}.txt").write_text(made)
"""


def start(work: Path, address: str = "auto", count: int = 12) -> subprocess.Popen[str]:
    """Shards of a second each, by two workers."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    work.mkdir(exist_ok=True)
    guard = OPEN if address != "auto" else {}
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(work), address, str(count)], text=True, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path, **guard}, cwd=root, start_new_session=True,
    )  # fmt: skip


def made(work: Path) -> list[int]:
    return sorted(int(path.stem) for path in work.glob("*.txt"))


def computed(work: Path) -> list[int]:
    """The shards that any worker has finished, each time."""
    log = work / "log"
    return sorted(int(line) for line in log.read_text().split()) if log.exists() else []


def wait_for(condition: Any, process: subprocess.Popen[str], patience_s: float = 120) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_of_a_worker_that_is_killed_nothing_is_lost_and_nothing_is_made_twice(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(made(tmp_path)) >= 3, process)
    first, _ = actors(process.pid)
    first.send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert made(tmp_path) == list(range(12))
    assert computed(tmp_path) == list(range(12))  # what the killed one was at is begun again, what was finished is not
    assert said.count("warning: a worker on") == 1
    assert "its process was killed, or has ended); others make shard" in said
    assert "12 shards by 2 workers on" in said
    assert "1 lost, and" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_end_keeps_what_is_finished_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(made(tmp_path)) >= 3, process)
    everyone = of_ray(process.pid)
    assert len(everyone) >= 4
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.rstrip().endswith(("KeyboardInterrupt", f"stopped by {number.name}"))  # a run says it in a sentence
    psutil.wait_procs(everyone, timeout=20)
    assert not [each for each in everyone if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    before = made(tmp_path)
    assert 3 <= len(before) < 12

    process = start(tmp_path)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert made(tmp_path) == list(range(12))
    assert f"{12 - len(before)} shards by 2 workers" in said


def test_a_run_that_is_killed_leaves_no_process_and_the_next_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(made(tmp_path)) >= 3, process)
    everyone, crew = of_ray(process.pid), actors(process.pid)
    assert len(crew) == 2
    process.kill()
    process.wait()
    psutil.wait_procs(crew, timeout=20)
    assert not any(each.is_running() for each in crew)
    psutil.wait_procs(everyone, timeout=120)  # Ray's own agents look once a minute
    assert not [each for each in everyone if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    before, left = made(tmp_path), sorted(Path("/tmp").glob(f"d2e-ray-{process.pid}-*"))
    assert left
    process = start(tmp_path)
    _, said = process.communicate(timeout=200)
    assert not any(path.exists() for path in left)
    assert made(tmp_path) == list(range(12))
    assert f"{12 - len(before)} shards by 2 workers" in said


def test_two_runs_share_no_cluster_that_one_of_them_has_started(tmp_path: Path) -> None:
    """Else the end of one would be that of the other."""
    first = start(tmp_path / "first", count=300)
    wait_for(lambda: len(made(tmp_path / "first")) >= 1, first)
    second = start(tmp_path / "second")
    wait_for(lambda: len(made(tmp_path / "second")) >= 1, second)
    assert len(actors(first.pid)) == len(actors(second.pid)) == 2
    first.terminate()
    first.communicate(timeout=60)
    _, said = second.communicate(timeout=200)
    assert second.returncode == 0, said
    assert "lost" not in said


# --- a cluster of two nodes, and the commands of docs/scale.md ---------------------------------


class Cluster:
    """A cluster on this machine that is started by the page's commands: a node for each, of one core.

    Attributes:
        nodes: the processes, each of which ends with its node.
    """

    def __init__(self, root: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = int(taken.getsockname()[1])
        self._root = root
        self.nodes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Start a head and one more node."""
        self._start(commands()[1], "--temp-dir", str(self._root))
        self._start(commands()[2])

    @property
    def address(self) -> str:
        """For `teacher.workers.ray`."""
        return f"127.0.0.1:{self.port}"

    def here(self, command: str) -> str:
        """A command of the page, with this cluster's address."""
        return command.replace("head-node:6379", self.address).replace("6379", str(self.port))

    def _start(self, command: str, *more: str) -> None:
        own = "--block --num-cpus 1 --disable-usage-stats --node-ip-address 127.0.0.1 --object-store-memory 100000000"
        log = (self._root.parent / f"{self._root.name}-{len(list(self._root.parent.iterdir()))}.log").open("wb")
        place = Path(sys.executable).parent
        process = subprocess.Popen(
            [place / "ray", *shlex.split(self.here(command))[1:], *own.split(), *more], stdout=log, stderr=log,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **OPEN}, start_new_session=True,
        )  # fmt: skip
        self.nodes.append(process)
        end = time.monotonic() + 120
        while b"--block" not in (said := Path(log.name).read_bytes()):
            assert process.poll() is None, said.decode()
            assert time.monotonic() < end, said.decode()
            time.sleep(0.2)

    def end(self) -> None:
        """Stop every node."""
        everyone = [each for node in self.nodes if node.poll() is None for each in of_ray(node.pid)]
        for node in reversed(self.nodes):
            node.terminate()
        for node in self.nodes:
            node.wait(60)
        _, left = psutil.wait_procs(everyone, timeout=30)
        for each in left:
            each.kill()


def commands() -> list[str]:
    """Those of the section."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## The teacher's work on many workers")[2]
    return [line for block in re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S) for line in block.splitlines()]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-", ignore_cleanup_errors=True) as root:
        (Path(root) / "c").mkdir()
        made = Cluster(Path(root) / "c")
        try:
            made.begin()
            yield made
        finally:
            made.end()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and the store of a run in one process."""
    root = tmp_path_factory.mktemp("runs")
    path = tiny_recipe(root, "tickets")
    code, said = command(root, "distill2edge signal tickets.yaml", "store-one")
    assert code == 0, said
    return path


def command(root: Path, line: str, store: str) -> tuple[int, str]:
    """Run a command of the program; its exit code, and what it says."""
    words = shlex.split(line)
    environment = {**os.environ, "DISTILL2EDGE_STORE": str(root / store), "OMP_NUM_THREADS": "1", **OPEN}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=root, env=environment, text=True, capture_output=True, timeout=600
    )
    return done.returncode, done.stdout + done.stderr


def signal_of(root: Path, store: str) -> dict[str, dict[str, str]]:
    """Key -> the shards of a store's signals."""
    return {path.name: cases.shards(path) for path in (root / store / "signal").iterdir()}


def test_the_commands_of_the_page(recipe: Path, cluster: Cluster) -> None:
    alone, *_, on_cluster = commands()
    assert len(commands()) == 4
    root, wanted = recipe.parent, signal_of(recipe.parent, "store-one")
    on_cluster = cluster.here(on_cluster).replace("replicas: 8, gpus: 1", "replicas: 2")
    for store, line in (("store-cluster", on_cluster), ("store-alone", alone)):
        line = line.replace("/shared/store", str(root / store)).replace("distill2edge run", "distill2edge signal")
        code, said = command(root, line, store)
        assert code == 0, said
        assert signal_of(root, store) == wanted
        assert "Traceback" not in said
    code, said = command(root, cluster.here(on_cluster).replace("/shared/store", str(root / "store-one")), "store-one")
    assert "] signal: reused" in said  # what one process has made
    assert code in (0, 3), said


def test_a_node_that_is_lost_costs_what_was_on_it(cluster: Cluster, tmp_path: Path) -> None:
    process = start(tmp_path, cluster.address)
    wait_for(lambda: len(made(tmp_path)) >= 3, process)
    for each in [*of_ray(cluster.nodes[1].pid), psutil.Process(cluster.nodes[1].pid)]:
        each.kill()
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert made(tmp_path) == computed(tmp_path) == list(range(12))
    assert said.count("warning: a worker on") == 1, said
    assert "Traceback" not in said


def test_of_a_head_that_is_lost_the_finished_shards_stay(cluster: Cluster, tmp_path: Path) -> None:
    """Ray ends the run within a minute or so, with words of its own."""
    process = start(tmp_path, cluster.address, count=300)
    wait_for(lambda: len(made(tmp_path)) >= 3, process)
    for each in [*of_ray(cluster.nodes[0].pid), psutil.Process(cluster.nodes[0].pid)]:
        each.kill()
    _, said = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "The program will terminate" in said
    before = made(tmp_path)
    assert len(before) >= 3
    assert all((tmp_path / f"{number}.txt").read_text() == f"made {number}" for number in before)


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ("replicas: 3", "3 workers of 1 core and .* each: there is room for 2"),
        ("replicas: 2, gpus: 1", "there is room for 0"),
    ],
)
def test_what_the_cluster_cannot_do(recipe: Path, cluster: Cluster, workers: str, said: str) -> None:
    line = f"distill2edge signal tickets.yaml --set 'teacher.workers={{ray: \"{cluster.address}\", {workers}}}'"
    code, found = command(recipe.parent, line, f"store-{len(workers)}")
    assert code == 4
    assert re.search(said, found), found
    assert found.count("error: ") == 1
    assert not list(recipe.parent.glob(f"store-{len(workers)}/data/*"))


def test_a_cluster_of_another_version_is_refused(recipe: Path, cluster: Cluster) -> None:
    """Ray's own comparison, with a driver that says it is of another version."""
    other = "import sys, ray; ray.__version__ = '2.1.0'; from distill2edge.workers import knock; knock.main()"
    done = subprocess.run(
        [sys.executable, "-c", other], input=json.dumps({"address": cluster.address, "place": ""}), text=True,
        capture_output=True, timeout=100, env={**os.environ, **OPEN},
    )  # fmt: skip
    told = json.loads(done.stdout)
    error = refused(cluster.address, told["error"])
    assert re.search(r"of other versions: .*2\.60.* 2\.1\.0", str(error)), str(error)
    assert "\n" not in error.what


def test_what_listens_and_is_no_ray_is_refused_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(preflight, "_PATIENCE_S", 15.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        workers = Workers(replicas=1, ray=f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(EnvironmentFault, match=r"no Ray cluster answers at 127\.0\.0\.1:\d+ in 15 s"):
            preflight.require_workers(workers, 0, tmp_path)
