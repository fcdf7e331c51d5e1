"""What a training process tells the one that started it: lines of JSON for progress, and how it ended."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import IO, Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.files import disk_full, disk_is_full
from distill2edge.util.interrupts import Stopped
from distill2edge.util.progress import Progress, Task

ENDINGS = ("result", "error", "stopped", "fault")
"""Keys of the last message of a process."""
_ERRORS = {kind.__name__: kind for kind in (UserError, EnvironmentFault)}


class ToParent:
    """A progress that another process shows.

    Attributes:
        stage: as `Progress.stage`.
    """

    def __init__(self, channel: IO[str], stage: str) -> None:
        self._channel, self.stage = channel, stage

    def send(self, **message: Any) -> None:
        """One message. A parent that is gone is told nothing."""
        try:
            self._channel.write(json.dumps(message) + "\n")
            self._channel.flush()
        except (BrokenPipeError, ValueError):
            return

    def say(self, line: str) -> None:
        """As `Progress.say`."""
        self.send(say=line)

    def warn(self, line: str) -> None:
        """As `Progress.warn`."""
        self.send(warn=line)

    def figures(self, values: Mapping[str, float]) -> None:
        """As `Progress.figures`."""
        self.send(figures=dict(values))

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """As `Progress.task`."""
        self.send(task=title, total=total)
        try:
            yield _Steps(self)
        finally:
            self.send(task=None)


class _Steps:
    def __init__(self, to: ToParent) -> None:
        self._to = to

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._to.send(advance=steps, note=note)


class Mute:
    """The progress of all processes but one."""

    def __init__(self, stage: str = "") -> None:
        self.stage = stage

    def say(self, line: str) -> None:
        """As `Progress.say`."""

    def warn(self, line: str) -> None:
        """As `Progress.warn`."""

    def figures(self, values: Mapping[str, float]) -> None:
        """As `Progress.figures`."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """As `Progress.task`."""
        yield _Nothing()


class _Nothing:
    def advance(self, steps: int = 1, note: str = "") -> None: ...


class Shown:
    """Shows the messages of another process."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._task = progress, ExitStack()
        self._at: Task | None = None

    def show(self, message: Mapping[str, Any]) -> None:
        """One message of a `ToParent`."""
        if "say" in message:
            self._progress.say(message["say"])
        elif "warn" in message:
            self._progress.warn(message["warn"])
        elif "figures" in message:
            self._progress.figures(message["figures"])
        elif "task" in message:
            self.close()
            if message["task"] is not None:
                opened: AbstractContextManager[Task] = self._progress.task(message["task"], message["total"])
                self._at = self._task.enter_context(opened)
        elif "advance" in message and self._at is not None:
            self._at.advance(message["advance"], message["note"])

    def close(self) -> None:
        """End the task that is open."""
        self._task.close()
        self._at = None


def ending_of(error: BaseException) -> dict[str, Any]:
    """The last message of a process that raised: `error`, `stopped` or `fault`."""
    if isinstance(error, Exception) and disk_full(error):
        error = disk_is_full(getattr(error, "filename", None))
    if isinstance(error, UserError):
        kind = EnvironmentFault if isinstance(error, EnvironmentFault) else UserError
        told = (error.what, error.where, error.fix) if type(error) in _ERRORS.values() else (str(error), "", "")
        return {"error": [kind.__name__, *told]}
    if isinstance(error, KeyboardInterrupt):
        return {"stopped": error.number if isinstance(error, Stopped) else 2}
    return {"fault": "".join(traceback.format_exception(error)).strip()}


def error_of(ending: Mapping[str, Any]) -> UserError:
    """The error in the last message `error`."""
    kind, what, where, fix = ending["error"]
    return _ERRORS[kind](what, where=where, fix=fix)
