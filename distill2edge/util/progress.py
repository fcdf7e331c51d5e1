"""Progress for long work: a rich bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from distill2edge.util.terminal import echo, printable


class Task(Protocol):
    """One piece of long work."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Say that `steps` more are done; `note` is a short figure such as a loss."""


class Progress(Protocol):
    """Where stages report what they do. Stages know only this.

    Attributes:
        stage: the name of the stage at work, set by who runs it.
    """

    stage: str

    def say(self, line: str) -> None:
        """Print one line."""

    def warn(self, line: str) -> None:
        """Print one warning that the user should not miss."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """A context manager over one long task of `total` steps."""

    def figures(self, values: Mapping[str, float]) -> None:
        """Take the figures of a training at a step: `step`, and loss, learning rate and tokens, or `eval_loss`."""


_TELLING_S = 30.0  # after which one or two steps tell a pace too


class PlainTask:
    """Lines at most every `every` seconds, so that a log stays readable."""

    def __init__(self, title: str, total: int, every: float) -> None:
        self.title, self.total, self.every = title, total, every
        self.done = 0
        self.start = self.last = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first step ended, and what was done by then

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        if self._first is None and steps:
            self._first = (now, self.done)
        if now - self.last < self.every and (self.done < self.total or self.every == float("inf")):
            return
        self.last = now
        left = self.left_s(now)
        tail = (f", {left:.0f}s left" if left is not None else "") + (f"  {note}" if note else "")
        echo(f"  {self.title}: {self.done}/{self.total}  {now - self.start:.0f}s{tail}", err=True)

    def left_s(self, now: float) -> float | None:
        """Seconds that are left by the pace since the first step; None while that says nothing yet.

        The first step is no measure: it loads and warms up, and after a resumption it counts what was done before.
        """
        if self._first is None or self.done >= self.total:
            return 0.0 if self.done >= self.total else None
        begun, before = self._first
        counted, spent = self.done - before, now - begun
        if counted <= 0 or (counted < 3 and spent < _TELLING_S) or spent <= 0:
            return None
        return spent / counted * (self.total - self.done)


class _NoFigures:
    """A console shows the loss in a task's note; figures are for files (`runlog`)."""

    stage = ""

    def figures(self, values: Mapping[str, float]) -> None:
        """As `Progress.figures`."""


class PlainProgress(_NoFigures):
    """For logs, pipes and tests."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def say(self, line: str) -> None:
        echo(line, err=True)

    def warn(self, line: str) -> None:
        echo(f"warning: {line}", err=True)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        yield PlainTask(title, total, self.every)


class SilentProgress(_NoFigures):
    """For `--quiet`, and for library use."""

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None:
        echo(f"warning: {line}", err=True)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        yield PlainTask(title, total, float("inf"))


class _RichTask:
    def __init__(self, bar: object, handle: int) -> None:
        self.bar, self.handle = bar, handle

    def advance(self, steps: int = 1, note: str = "") -> None:
        fields = {"note": printable(note)} if note else {}
        self.bar.update(self.handle, advance=steps, **fields)  # type: ignore[attr-defined]


class RichProgress(_NoFigures):
    """For a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, line: str) -> None:
        self.console.print(printable(line), markup=False)

    def warn(self, line: str) -> None:
        self.console.print(printable(f"warning: {line}"), style="yellow", markup=False)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("  {task.description}", markup=False),  # a title may name a file
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Bar(*columns, console=self.console, transient=True) as bar:
            yield _RichTask(bar, bar.add_task(printable(title), total=total, note=""))


def for_stream(quiet: bool = False) -> Progress:
    """The progress that fits where standard error goes."""
    if quiet:
        return SilentProgress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()
