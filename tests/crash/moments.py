"""Inside a run: counts the moments of each stage, and lets one of them be its last, or fills the disk there.

A moment is a write to the store (a file opened for writing, a directory, a rename, a removal) or a word of progress:
the same one in every run of a recipe, however busy the machine is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill2edge.pipeline.run_stages import keys_of
from distill2edge.pipeline.store import Store
from distill2edge.running import run_recipe as run_module
from distill2edge.util import progress as progress_module

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
FILLER = "filler"


@dataclass(frozen=True)
class Event:
    """What happens, and when.

    Attributes:
        kind: `kill` (kill -9), `term` (SIGTERM), `full` (the disk).
        label: directory name of the stage's work, `STAGE-KEY`.
        moment: its number, from 1.
    """

    kind: str
    label: str
    moment: int


class Moments:
    """Counts in this process.

    Args:
        disk: root of the file system that the store is on.
        event: what shall happen.
    """

    def __init__(self, disk: Path, event: Event | None = None) -> None:
        self.disk, self.event = str(disk), event
        self.counts: Counter[str] = Counter()
        self.stages: dict[str, tuple[str, str, list[str]]] = {}  # label -> name, key, keys of its parents
        self._label: str | None = None
        self._fired = False

    def install(self) -> None:
        """From now on count; for the rest of the process."""
        build, stream = Store.build, progress_module.for_stream

        def counted(store: Store, stage: str, key: str, *rest: Any, **more: Any) -> Any:
            self._label = f"{stage}-{key[:20]}"
            try:
                return build(store, stage, key, *rest, **more)
            finally:
                self._label = None

        run_stages = run_module.run_stages

        def listed(stages: Any, store: Store, *rest: Any, **more: Any) -> Any:
            keys = keys_of(stages)
            for stage in stages:
                label = f"{stage.kind}-{keys[stage.name][:20]}"
                self.stages[label] = (stage.name, keys[stage.name], [keys[parent] for parent in stage.parents])
            return run_stages(stages, store, *rest, **more)

        run_module.run_stages = listed
        Store.build = counted  # type: ignore[method-assign]
        progress_module.for_stream = lambda quiet=False: _Told(stream(quiet), self.tick)
        sys.addaudithook(self._hook)

    def tick(self) -> None:
        """A moment has come."""
        if self._label is None or self._fired:
            return
        self.counts[self._label] += 1
        event = self.event
        if event and (event.label, event.moment) == (self._label, self.counts[self._label]):
            self._fired = True
            _FIRE[event.kind](self.disk)

    def save(self, path: Path) -> None:
        """Write the stages and how many moments each had."""
        self._fired = True
        path.write_text(json.dumps({"stages": self.stages, "moments": self.counts}))

    def _hook(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & _WRITES and isinstance(path, str) and path.startswith(self.disk):
                self.tick()
        elif name in _CHANGES and isinstance(args[0], (str, Path)) and str(args[0]).startswith(self.disk):
            self.tick()


def _fill(disk: str) -> None:
    handle = os.open(os.path.join(disk, FILLER), os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    os.write(handle, bytes(size))
    os.close(handle)


_FIRE = {
    "kill": lambda disk: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda disk: os.kill(os.getpid(), signal.SIGTERM),
    "full": _fill,
}


class _Told:
    def __init__(self, shown: Any, tick: Any) -> None:
        self._shown, self._tick = shown, tick

    def say(self, line: str) -> None:
        self._tick()
        self._shown.say(line)

    def warn(self, line: str) -> None:
        self._tick()
        self._shown.warn(line)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Any]:
        with self._shown.task(title, total) as task:
            yield _ToldTask(task, self._tick)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)


class _ToldTask:
    def __init__(self, shown: Any, tick: Any) -> None:
        self._shown, self._tick = shown, tick

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._tick()
        self._shown.advance(steps, note)
