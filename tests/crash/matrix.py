"""The crash matrix: a run ends by kill -9, SIGTERM or a full disk at a moment of a stage, is run again, and must have
made what a run left alone makes.

A reference run of each recipe gives its artifacts. For an event a store is filled with those that do not follow from
the stage; the stage is run, ended at the moment, and run again. Runs are forks of one process that has everything
imported, so that an event costs little more than its stage.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from crash.moments import FILLER, Event, Moments
from crash.recipes import write_models, write_recipes

KINDS = ("kill", "term", "full")
_EXPECTED = {
    "kill": (-signal.SIGKILL, ""),
    "term": (143, "error: stopped:"),
    "full": (4, "the disk is full|No space left|MiB free, about"),
}
# Times, speeds and memory differ between two runs of the same thing.
_MEASURED = re.compile(r"(^|_)(wall|seconds|time|created|rss|versions?|mtime_ns|took)|_s$|_per_s$|_bytes_s$|per_second")
# Documents that hold little but measurements, and what workers leave: there or not.
_PRESENT = re.compile(
    r"(^|/)(bench|cost|report)\.json$|\.(log|html|md)$|^(models|rounds|answers)/.*\.json$|\.spec\.json$"
)


@dataclass(frozen=True)
class Stage:
    """A stage of a reference run."""

    recipe: str
    name: str
    kind: str
    key: str
    moments: int

    @property
    def label(self) -> str:
        return f"{self.kind}-{self.key[:20]}"


@dataclass
class Outcome:
    """What became of one event.

    Attributes:
        faults: what must not be: empty where all is well.
        asked_again: questions that the endpoint answered more than once, in all.
    """

    recipe: str
    stage: str
    kind: str
    moment: int
    of: int
    faults: list[str] = field(default_factory=list)
    asked_again: int = 0
    seconds: float = 0.0


class Matrix:
    """Reference runs and events on a disk of their own.

    Args:
        disk: an empty file system that may be filled to the last byte; the store and temporary files are on it.
        root: a directory elsewhere: models, recipes, logs.
    """

    def __init__(self, disk: Path, root: Path, names: Sequence[str] | None = None) -> None:
        self.disk, self.root = disk, root
        self._log = root / "answers.log"
        self._log.touch()
        script = Path(__file__).with_name("endpoint.py")
        self._server = subprocess.Popen(
            [sys.executable, str(script), str(self._log)], stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        port = int(self._server.stdout.readline())
        self._in_fork(lambda: write_models(root))
        recipes = write_recipes(root, port)
        self.recipes = {name: path for name, path in recipes.items() if names is None or name in names}
        self.stages: list[Stage] = []
        self._parents: dict[str, dict[str, list[str]]] = {}

    def close(self) -> None:
        """End the endpoint."""
        self._server.kill()
        self._server.wait()

    def reference(self, name: str, kinds: Sequence[str] = ()) -> float:
        """Run a recipe to its end, or all that its stages of these kinds need; returns the seconds."""
        start = time.monotonic()
        store, counts = self.disk / "reference" / "store", self.root / f"{name}.counts.json"
        until = (lambda stages: [one.name for one in stages if one.kind in kinds]) if kinds else None
        code, said = self._run(name, store, self._out(name), until, counts=counts)
        if code:
            raise RuntimeError(f"{name}: the reference run ended with {code}\n{said}")
        found = json.loads(counts.read_text())
        for label, (stage, key, parents) in found["stages"].items():
            self.stages.append(Stage(name, stage, label.rpartition("-")[0], key, found["moments"][label]))
            self._parents.setdefault(name, {})[key] = parents
        return time.monotonic() - start

    def attempt(self, stage: Stage, kind: str, moment: int) -> Outcome:
        """Let one event happen, run the stage again, and compare."""
        start = time.monotonic()
        outcome = Outcome(stage.recipe, stage.name, kind, moment, stage.moments)
        place = self.disk / "event"
        shutil.rmtree(place, ignore_errors=True)
        store = place / "store"
        self._fill(store, stage)
        before = self._log.stat().st_size
        event = Event(kind, stage.label, moment)
        until = None if stage.kind == "report" else lambda stages: [stage.name]
        code, said = self._run(stage.recipe, store, place / "out", until, event)
        (self.disk / FILLER).unlink(missing_ok=True)
        expected, words = _EXPECTED[kind]
        went_through = kind == "full" and code == 0  # nothing was left to write but names
        if not went_through and (code != expected or not re.search(words, said)):
            outcome.faults.append(f"ended with {code} instead of {expected}: {said[-600:]}")
        if kind != "kill" and "Traceback" in said:
            outcome.faults.append(f"a traceback: {said[-600:]}")
        code, said = self._run(stage.recipe, store, place / "out", until)
        if code:
            outcome.faults.append(f"the run after it ended with {code}: {said[-600:]}")
        else:
            outcome.faults += self._differences(stage, store, place / "out")
        with self._log.open() as log:
            log.seek(before)
            outcome.asked_again = sum(count - 1 for count in Counter(log).values())
        if outcome.asked_again > (kind == "kill"):  # what was under way at a kill -9 is on no disk
            outcome.faults.append(f"{outcome.asked_again} answers were paid twice")
        outcome.seconds = round(time.monotonic() - start, 2)
        return outcome

    # --- runs -----------------------------------------------------------------------

    def _out(self, name: str) -> Path:
        return self.disk / "reference" / name

    def _fill(self, store: Path, stage: Stage) -> None:
        """Links to the reference's artifacts, but for the stage and what follows from it."""
        parents = self._parents[stage.recipe]
        gone = {stage.key}
        for key, own in parents.items():  # in order: a stage comes after its parents
            if gone.intersection(own):
                gone.add(key)
        for manifest in (self.disk / "reference" / "store").glob("*/*/manifest.json"):
            key = json.loads(manifest.read_text())["key"]
            if key in parents and key not in gone:
                target = store / manifest.parent.parent.name / manifest.parent.name
                shutil.copytree(manifest.parent, target, copy_function=os.link)

    def _run(
        self,
        name: str,
        store: Path,
        out: Path,
        until: Callable[[Sequence[Any]], list[str]] | None = None,
        event: Event | None = None,
        counts: Path | None = None,
    ) -> tuple[int, str]:
        """Run a recipe (or what the stages that `until` names need) in a fork; returns its exit code, and what it said.

        A gate of so small a model may fail: such a run is complete.
        """
        log = self.root / "run.out"
        arguments = [str(self.recipes[name]), "--store", str(store), "--out", str(out)]

        def work() -> None:
            moments = Moments(self.disk, event)
            moments.install()
            from distill2edge.cli.main import main
            from distill2edge.running import run_recipe as run_module

            if until is not None:
                run_module.upto = lambda stages, kind: _upto(stages, until(stages))  # type: ignore[attr-defined]
            try:
                main(["run" if until is None else "export", *arguments], prog_name="distill2edge")
            finally:
                if counts is not None:
                    moments.save(counts)

        code = self._in_fork(work, log)
        return 0 if code == 3 else code, log.read_text(errors="replace")

    def _in_fork(self, work: Any, log: Path | None = None) -> int:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setsid()
                handle = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                os.environ["TMPDIR"], tempfile.tempdir = str(self.disk), None
                work()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        left = _left(child)
        if left:
            raise RuntimeError(f"processes outlive their run: {left}")
        return code

    # --- comparison -------------------------------------------------------------------

    def _differences(self, stage: Stage, store: Path, out: Path) -> list[str]:
        path = Path(stage.kind) / stage.key[:20]
        pairs = [(self.disk / "reference" / "store" / path, store / path)]
        faults = [f"work is left in partial: {left.name}" for left in (store / "partial").iterdir()]
        if stage.kind == "report":
            pairs.append((self._out(stage.recipe) / "exports", out / "exports"))
        for reference, made in pairs:
            ours, theirs = contents(made), contents(reference)
            faults += [f"{name} differs" for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
            faults += [f"{name} is there in one alone" for name in sorted(ours.keys() ^ theirs.keys())]
        return faults


def contents(directory: Path) -> dict[str, str]:
    """A digest of each file of an artifact, without what is measured; of its manifest, what it lists."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            name = path.relative_to(directory).as_posix()
            found[name] = "present" if _PRESENT.search(name) else sha256(_content(path)).hexdigest()
    return found


def _content(path: Path) -> bytes:
    if path.name == "manifest.json":
        return json.dumps([entry["path"] for entry in json.loads(path.read_text())["files"]]).encode()
    if path.suffix == ".json":
        return json.dumps(_plain(json.loads(path.read_text())), sort_keys=True).encode()
    if path.suffix == ".jsonl":
        return json.dumps(sorted(json.dumps(_plain(json.loads(line))) for line in path.open())).encode()
    if path.suffix == ".safetensors":  # the order of a header's metadata is another in every process
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        return json.dumps(json.loads(raw[8 : 8 + size]), sort_keys=True).encode() + raw[8 + size :]
    if path.name == "ledger.parquet":
        import pyarrow.parquet as pq

        return json.dumps(pq.read_table(path, use_threads=False).drop_columns(["created"]).to_pylist()).encode()
    return path.read_bytes()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not _MEASURED.search(key)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _upto(stages: Sequence[Any], names: Sequence[str]) -> list[Any]:
    wanted = set(names)
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.parents)
    return [stage for stage in stages if stage.name in wanted]


def _left(session: int, wait_s: float = 3.0) -> list[str]:
    """Processes of a session that has lost its leader; they are given a moment to end."""
    end = time.monotonic() + wait_s
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(entry.parent.name)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.02)


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """For a result file."""
    return asdict(outcome)
