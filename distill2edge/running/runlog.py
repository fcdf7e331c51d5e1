"""What a run directory keeps of a run while it goes on.

`run.log`: what the console was told, what libraries said to nobody, and how it ended, each with its time.
`status.json`: what it is doing now (`running.status`).
`train.jsonl`: the figures of every training, a line for each step that was logged: `tail -f`, or pandas.read_json.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from distill2edge.errors import UserError
from distill2edge.running.status import StatusFile
from distill2edge.util.progress import Progress, Task
from distill2edge.util.terminal import printable

_EVERY_S = 60.0


class RunLog:
    """Lines with the time, appended. A log that cannot be written stops no run.

    As a context manager it also takes what libraries log and warn of.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._waiting = path, ""
        self._handler = logging.Handler(logging.WARNING)
        self._handler.emit = self._take  # type: ignore[method-assign]

    def line(self, text: str) -> None:
        """Append the lines of a text; until the directory is there they wait."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        self._waiting += "".join(f"{now}  {printable(part)}\n" for part in text.splitlines())
        if self._path.parent.is_dir():
            with suppress(OSError), self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(self._waiting)
            self._waiting = ""

    def ended(self, error: BaseException) -> None:
        """Say how a run ended that did not come to its end; of our own faults, where."""
        if isinstance(error, UserError):
            self.line(f"--- error: {error}")
        elif isinstance(error, Exception):
            self.line("--- internal error\n" + "".join(traceback.format_exception(error)))
        else:
            self.line(f"--- stopped: {error or type(error).__name__}")

    def __enter__(self) -> RunLog:
        for logger in _LOGGERS:
            logging.getLogger(logger).addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for logger in _LOGGERS:
            logging.getLogger(logger).removeHandler(self._handler)

    def _take(self, record: logging.LogRecord) -> None:
        if getattr(record, "written_down", False):  # by the logger itself, which passes it on to the root after all
            return
        record.written_down = True
        self.line(f"{record.name}: {record.getMessage()}")


# The root, and those that pass nothing on to it.
_LOGGERS = ("", "py.warnings", "transformers", "datasets", "huggingface_hub")


class LoggedProgress:
    """A progress that is also written down.

    Args:
        figures: the file of the trainings' figures; it is written once its directory is there.
        status: told of stages and tasks.
    """

    def __init__(self, shown: Progress, log: RunLog, figures: Path, status: StatusFile) -> None:
        self._shown, self._log, self._figures, self._status = shown, log, figures, status
        self._stage = ""

    @property
    def stage(self) -> str:
        """As `Progress.stage`."""
        return self._stage

    @stage.setter
    def stage(self, name: str) -> None:
        self._stage = name
        self._status.stage(name)

    def planned(self, stages: Sequence[str], seed: int | None) -> None:
        """The names of the stages that are to come, in order; of one of several seeds, which."""
        self._status.planned(stages, seed)

    def say(self, line: str) -> None:
        """As `Progress.say`."""
        self._log.line(line)
        self._shown.say(line)

    def warn(self, line: str) -> None:
        """As `Progress.warn`."""
        self._log.line(f"warning: {line}")
        self._shown.warn(line)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """As `Progress.task`."""
        with self._shown.task(title, total) as task:
            self._status.task(title, 0, total)
            yield _LoggedTask(task, self._log, self._status, title, total)

    def figures(self, values: Mapping[str, float]) -> None:
        """As `Progress.figures`: one line of JSON. A file that cannot be written stops no run."""
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "stage": self.stage, **values})
        with suppress(OSError), self._figures.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class _LoggedTask:
    def __init__(self, shown: Task, log: RunLog, status: StatusFile, title: str, total: int) -> None:
        self._shown, self._log, self._status, self._title, self._total = shown, log, status, title, total
        self._done, self._last = 0, time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if self._done >= self._total or now - self._last >= _EVERY_S:
            self._last = now
            self._log.line(f"  {self._title}: {self._done}/{self._total}  {note}".rstrip())
        self._status.task(self._title, self._done, self._total, note)
        self._shown.advance(steps, note)
