"""Who is at work in a store: one process builds an artifact, and a run keeps what it uses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from distill2edge.util.progress import Progress

_RUN = "run-"
_SETTLED_S = 60.0  # after which the lock of a run that begins is surely held


class StoreLocks:
    """The lock files of one store.

    Args:
        directory: where they lie.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, label: str) -> Path:
        """The lock of what is built under this name."""
        return self.directory / f"{label}.lock"

    @contextmanager
    def in_use(self, progress: Progress) -> Iterator[None]:
        """A run goes on: garbage collection leaves what it has made or reused. Nothing, where none can be noted.

        Args:
            progress: told where it has to wait.
        """
        lock = FileLock(self.directory / f"{_RUN}{uuid4().hex[:16]}.lock")
        try:
            lock.acquire()
        except OSError:  # a store that can only be read
            yield
            return
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError):
                Path(lock.lock_file).unlink()

    def used_since(self) -> float | None:
        """When the oldest run that goes on began, by the clock of the store's files; None without one."""
        began = []
        for path in self.directory.glob(f"{_RUN}*.lock"):
            with suppress(OSError):
                started = path.stat().st_mtime
                if _held(path):
                    began.append(started)
                elif time.time() - started > _SETTLED_S:  # of a run that was killed
                    path.unlink()
        return min(began, default=None)

    def is_built(self, partial: Path) -> bool:
        """Whether a process is at work in a partial directory now."""
        return _held(self.path(partial.name))

    @contextmanager
    def building(self, label: str, progress: Progress) -> Iterator[None]:
        """Held by the one process that builds an artifact; another waits, and says so."""
        lock = FileLock(self.path(label))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"another run is making {label}: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _held(lock: Path) -> bool:
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
