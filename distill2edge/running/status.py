"""`status.json` of a run directory: what a run is doing, for whoever looks from another process.

It is replaced whole, at most every two seconds and at every stage. A run that was killed leaves it as it was: who reads
it asks whether its process is still there.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.files import read_regular, replacing
from distill2edge.util.terminal import one_line

FILE = "status.json"
_EVERY_S = 2.0
_SILENT_S = 600.0
"""After which a run of another machine, whose process cannot be asked for, is called silent."""
_LONGEST = 300  # characters of a note or an error


class StatusFile:
    """What a run writes of itself. A status that cannot be written stops no run.

    Args:
        path: of the file; nothing is written until its directory is there.
        of: `run`, or the stage that the run ends at.
    """

    def __init__(self, path: Path, of: str) -> None:
        self._path, self._last = path, 0.0
        self._said: dict[str, Any] = {
            "schema_version": 1, "state": "running", "of": of, "started": _now(), "updated": _now(), "stages": [],
            "stage": "", "seed": None, "task": None, "note": "", "error": "", "pid": os.getpid(),
            "pid_started": psutil.Process().create_time(), "host": socket.gethostname(),
        }  # fmt: skip

    def planned(self, stages: Sequence[str], seed: int | None) -> None:
        """The stages that are to come, in order; of one of several seeds, which."""
        self._write({"stages": list(stages), "stage": "", "seed": seed, "task": None})

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._write({"stage": name, "task": None, "note": ""})

    def task(self, title: str, done: int, total: int, note: str = "") -> None:
        """Long work within the stage goes on."""
        begins_or_ends = not done or done >= total
        task = {"title": one_line(title, _LONGEST), "done": done, "total": total}
        self._write({"task": task, "note": one_line(note, _LONGEST)}, now=begins_or_ends)

    def ended(self, state: str, error: str = "") -> None:
        """How the run ended: `done`, `failed` or `stopped`. Which process it was is no longer said."""
        for name in ("pid", "pid_started", "host"):
            self._said.pop(name, None)
        self._write({"state": state, "task": None, "note": "", "error": one_line(error, _LONGEST)})

    def _write(self, said: dict[str, Any], now: bool = True) -> None:
        self._said |= said
        if not self._path.parent.is_dir() or (not now and time.monotonic() - self._last < _EVERY_S):
            return
        self._last, self._said["updated"] = time.monotonic(), _now()
        with suppress(OSError, EnvironmentFault), replacing(self._path, durable=False) as temporary:
            temporary.write_text(json.dumps(self._said, indent=2) + "\n", encoding="utf-8")


class _Task(BaseModel):
    model_config = ConfigDict(extra="ignore")
    title: str
    done: int
    total: int


class _Said(BaseModel):
    model_config = ConfigDict(extra="ignore")
    state: str
    of: str
    started: str
    updated: str
    stages: list[str]
    stage: str
    seed: int | None = None
    task: _Task | None = None
    note: str = ""
    error: str = ""
    pid: int | None = None
    pid_started: float | None = None
    host: str | None = None


@dataclass(frozen=True)
class Status:
    """What a run directory says of its run.

    Attributes:
        state: `running`; `done`, `failed` or `stopped`; `killed`: it ended without a word; `silent`: it runs on another
            machine and has said nothing for ten minutes.
        of: `run`, or the stage that it ends at.
        stages: in order; `stage` is the one at work, or empty.
        seed: of a run over several seeds, the one at work.
        task: title, steps done and steps in all of the long work within the stage.
        note: a short figure of it, such as a loss.
        error: of a run that failed.
    """

    state: str
    of: str = "run"
    started: str = ""
    updated: str = ""
    stages: tuple[str, ...] = ()
    stage: str = ""
    seed: int | None = None
    task: tuple[str, int, int] | None = None
    note: str = ""
    error: str = ""

    @property
    def number(self) -> int:
        """Of the stage at work, from 1; 0 before the first."""
        return self.stages.index(self.stage) + 1 if self.stage in self.stages else 0


def read_status(run: Path) -> Status | None:
    """The status of a run directory; None where no run has written one.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    path = run / FILE
    if not os.path.lexists(path):
        return None
    fix = "remove it, or run its recipe again"
    if path.is_symlink():
        raise UserError("a link, which may lead out of the run", where=str(path), fix=fix)
    try:
        said = _Said.model_validate_json(read_regular(path, 1 << 20))
    except (OSError, ValidationError) as error:
        raise UserError("a damaged status file", where=str(path), fix=fix) from error
    task = (said.task.title, said.task.done, said.task.total) if said.task else None
    state = _alive(said, path) if said.state == "running" else said.state
    return Status(state, said.of, said.started, said.updated, tuple(said.stages), said.stage, said.seed, task,
                  said.note, said.error)  # fmt: skip


def _alive(said: _Said, path: Path) -> str:
    if said.host != socket.gethostname():
        return "running" if time.time() - path.stat().st_mtime < _SILENT_S else "silent"
    try:
        begun = psutil.Process(said.pid).create_time() if said.pid and said.pid > 0 else None
    except psutil.Error:
        begun = None
    # Numbers of processes come again; when one began does not.
    same = begun is not None and said.pid_started is not None and abs(begun - said.pid_started) < 1.0
    return "running" if same else "killed"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")
