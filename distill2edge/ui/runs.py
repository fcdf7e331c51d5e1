"""The runs of a folder, as they stand now: each with an id of its own, its state, and why where it is broken."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.quantize.schemes import schemes_in
from distill2edge.report.compare import figures_of, task_of_report
from distill2edge.report.figures import value_of
from distill2edge.running.reading import exported, load_report, read_document, weight_of
from distill2edge.running.status import FILE as STATUS
from distill2edge.running.status import Status, read_status

Document = dict[str, Any]

DAMAGED = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, AssertionError, RecursionError,
)  # fmt: skip
"""What reading a report raises whose skeleton is right and whose inside is not."""
RUNNING = ("running", "silent")
STATES = {
    "pass": "every gate passed",
    "fail": "a gate failed",
    "running": "at work now",
    "silent": "on another machine, and silent for ten minutes",
    "partial": "ended at a stage before its report",
    "stopped": "was stopped; the same command goes on",
    "error": "ended with an error",
    "killed": "ended without a word; the same command goes on",
    "broken": "cannot be read",
}
"""What can be said of a run, in words."""
DOCUMENTS = {
    "report.html": "text/html", "report.md": "text/plain", "report.json": "application/json",
    "model_card.md": "text/plain", "recipe.yaml": "text/plain", "run.log": "text/plain",
    "train.jsonl": "text/plain", "status.json": "application/json",
}  # fmt: skip
"""The documents of a run directory that the page gives, each with its type."""
_MARKS = ("report.json", "run.log", STATUS)
_DEEPEST, _MOST = 3, 5000
_SEED = re.compile(r"seed-\d+")


@dataclass(frozen=True)
class Listed:
    """A run in the list.

    Attributes:
        id: what addresses it on the page; made of its place in the folder.
        name: its place in the folder.
        state: one of `STATES`; `why` says more where it is broken or ended badly.
        report: its report.json, of this run or of the one before the one at work.
        figures: of the report, as `compare.figures_of`.
        time: seconds since 1970 of its newest document.
    """

    id: str
    name: str
    path: Path
    state: str
    why: str = ""
    report: Document | None = field(default=None, repr=False)
    figures: Document = field(default_factory=dict, repr=False)
    status: Status | None = None
    task: str = ""
    time: float = 0.0

    @property
    def seeds(self) -> bool:
        """Whether it is one report over several seeds, whose files lie in each one's own run."""
        return bool(self.report and (self.report.get("seeds") or {}).get("seeds"))


@dataclass(frozen=True)
class File:
    """A file of a run that can be tried.

    Attributes:
        id: `RUN/NAME`: the run's id, and the name of its folder in `exports`.
        passed: whether it kept every gate; None where that is not known.
    """

    id: str
    run: Listed
    scheme: str
    path: Path
    bytes: int
    passed: bool | None

    @property
    def title(self) -> str:
        """`quickstart gguf:Q4_0`"""
        return f"{self.run.name} {self.scheme}"


class Runs:
    """The runs in a folder, or the one run that a folder is. Reports are read again only when they change."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.single = _is_run(place)
        self._kept: dict[Path, tuple[tuple[int, int], Document | UserError]] = {}

    def all(self) -> list[Listed]:
        """Every run, the newest first."""
        found = [self._listed(path) for path in self._places()]
        return sorted(found, key=lambda run: (run.state not in RUNNING, -run.time, run.name))

    def get(self, run: str) -> Listed | None:
        """The run with an id; only runs that are listed have one."""
        return next((self._listed(path) for path in self._places() if self._id(path) == run), None)

    def damaged(self, run: Listed, error: Exception) -> Listed | None:
        """The run as a broken one, of which only its page saw what is wrong inside its report."""
        file = run.path / "report.json"
        if file in self._kept:
            self._kept[file] = (self._kept[file][0], UserError(_inside(error)))
        return self.get(run.id)

    def files(self, runs: Sequence[Listed] | None = None) -> list[File]:
        """What can be tried of some runs, or of all: smaller files first. Broken runs have none."""
        found: list[File] = []
        for run in self.all() if runs is None else runs:
            with suppress(UserError, OSError):
                found += sorted(_files(run), key=lambda file: file.bytes)
        return found

    def _places(self) -> list[Path]:
        found: list[Path] = []
        for path in self._walk(self.place, 0):
            found.append(path)
            if len(found) >= _MOST:
                break
        return found

    def _walk(self, place: Path, depth: int) -> Iterator[Path]:
        if _is_run(place):
            yield place
            inside = [path for path in _folders(place) if _SEED.fullmatch(path.name)]
        else:
            inside = _folders(place) if depth < _DEEPEST else []
        for path in inside:
            if path.is_symlink():
                if _is_run(path):
                    yield path
            else:
                yield from self._walk(path, depth + 1)

    def _name(self, path: Path) -> str:
        return path.absolute().name if path == self.place else path.relative_to(self.place).as_posix()

    def _id(self, path: Path) -> str:
        name = os.fsencode(self._name(path))
        slug = re.sub(r"[^A-Za-z0-9]+", "-", name.decode("ascii", "ignore")).strip("-")[:40]
        return f"{slug or 'run'}-{hashlib.sha256(name).hexdigest()[:8]}"

    def _listed(self, path: Path) -> Listed:
        name = self._name(path).encode("utf-8", "backslashreplace").decode()
        known = self._id(path), name, path
        if path.is_symlink() and path != self.place:
            why = "a link, which may lead out of the folder: start the page on the folder that it leads to"
            return Listed(*known, "broken", why=why)
        try:
            status = read_status(path)
            report = self._report(path)
            figures = figures_of(report, name) if report else {}
            task = task_of_report(report).replace("unknown", "") if report else ""
        except UserError as error:
            return Listed(*known, "broken", why=_said(error, path), time=_time(path))
        except DAMAGED as error:
            return Listed(*known, "broken", why=_inside(error), time=_time(path))
        state, why = _state(path, status, report)
        return Listed(*known, state, why, report=report, figures=figures, status=status, task=task,
                      time=_time(path))  # fmt: skip

    def _report(self, path: Path) -> Document | None:
        file = path / "report.json"
        if file.is_symlink():
            raise UserError("report.json is a link, which may lead out of the run", fix="put the file itself there")
        try:
            stat = file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"report.json cannot be read: {error.strerror}") from error
        mark, kept = (stat.st_mtime_ns, stat.st_size), self._kept.get(file)
        if kept is None or kept[0] != mark:
            try:
                kept = (mark, load_report(path))
            except UserError as error:
                kept = (mark, error)
            self._kept[file] = kept
        if isinstance(kept[1], UserError):
            raise kept[1]
        return kept[1]


def document(run: Listed, name: str) -> Path | None:
    """A document of a run that the page may give: one of `DOCUMENTS`, in the run itself and no link."""
    path = run.path / name
    return path if name in DOCUMENTS and path.is_file() and not path.is_symlink() and not _linked(run) else None


def _linked(run: Listed) -> bool:
    return run.state == "broken" and run.path.is_symlink()


def _is_run(place: Path) -> bool:
    return any(os.path.lexists(place / name) for name in _MARKS)


def _folders(place: Path) -> list[Path]:
    try:
        found = [Path(entry.path) for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []
    return sorted(found)


def _time(path: Path) -> float:
    found = 0.0
    for name in _MARKS:
        with suppress(OSError):
            found = max(found, (path / name).lstat().st_mtime)
    return found


def _inside(error: Exception) -> str:
    return f"report.json is damaged: {type(error).__name__}: {str(error)[:200]}"


def _said(error: UserError, path: Path) -> str:
    where = error.where.removeprefix(str(path)).lstrip("/")
    return f"{f'{where}: ' if where else ''}{error.what}{f' ({error.fix})' if error.fix else ''}"


def _state(path: Path, status: Status | None, report: Document | None) -> tuple[str, str]:
    """State and why, of what the run said last, and of its report where it came to one."""
    state, error = (status.state, status.error) if status else _of_log(path, report)
    if state in ("running", "silent", "killed", "stopped"):
        return state, ""
    if state == "failed":
        return "error", error
    if report is None:
        return "partial", f"it ended at {status.of}" if status and status.of != "run" else ""
    return ("pass" if report["verdict"]["result"] == "pass" else "fail"), ""


def _of_log(path: Path, report: Document | None) -> tuple[str, str]:
    """What run.log says of a run without a status: of an earlier version, or a report alone."""
    lines = tail(path / "run.log", 40)
    for line in reversed(lines):
        said = line[21:] if line[4:5] == "-" else line
        if said.startswith("--- done"):
            return "done", ""
        if said.startswith("--- stopped"):
            return "stopped", ""
        if said.startswith(("--- error", "--- internal error")):
            return "failed", said.removeprefix("--- ")
    return ("done" if report is not None else "killed"), ""


def tail(path: Path, lines: int, most: int = 1 << 16) -> list[str]:
    """The last lines of a text that may grow; none of a file that is missing, a link or no file."""
    if path.is_symlink() or not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            text = file.read(most)
    except OSError:
        return []
    found = text.decode("utf-8", "replace").splitlines()
    return found[1 if size > most else 0 :][-lines:]


def losses(run: Path) -> tuple[str, list[Document]]:
    """Stage and rows of the training that wrote last into train.jsonl: what has `step` and `loss` or `eval_loss`."""
    rows: list[Document] = []
    for line in tail(run / "train.jsonl", 5000, 4 << 20):
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and value_of(row.get("step")) is not None:
                rows.append(row)
    stage = str(rows[-1].get("stage", "")) if rows else ""
    last = [row for row in rows if str(row.get("stage", "")) == stage]
    # A stage that is trained again begins anew.
    begin = max((i for i in range(1, len(last)) if last[i]["step"] < last[i - 1]["step"]), default=0)
    return stage, last[begin:]


def _files(run: Listed) -> list[File]:
    exports = run.path / "exports"
    if run.path.is_symlink() or not os.path.lexists(exports) or run.seeds:
        return []
    passed: dict[str, bool | None] = {}
    if (run.path / "exports.json").is_file() and not (run.path / "exports.json").is_symlink():
        with suppress(UserError, *DAMAGED):
            for entry in read_document(run.path / "exports.json")["files"]:
                verified = entry.get("verified")
                passed[str(entry["path"]).rpartition("/")[2]] = verified if isinstance(verified, bool) else None
    return [
        File(f"{run.id}/{path.name}", run, (schemes_in([path.name]) or [path.name])[0], path, weight_of(path),
             passed.get(path.name))
        for path in exported(run.path)
        if path.parent == exports
    ]  # fmt: skip


def ago(seconds: float) -> str:
    """`3 minutes ago` of a time since 1970."""
    past = max(0.0, time.time() - seconds)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if past >= size:
            count = int(past // size)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"
