"""Files that are of use to every stage that has one (`Files.shares`), between machines: answers that were paid for.

    unfinished/LABEL/MACHINE/NAME    of a stage that is at work, or was killed

They are brought to the store's directory, where a stage that begins finds them among those of others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from distill2edge.pipeline.object_storage import Entry, Storage
from distill2edge.pipeline.published import ARTIFACTS
from distill2edge.util.files import scratch, sync

UNFINISHED = "unfinished"


class SharedAnswers:
    """The files that one stage shares while it works.

    Args:
        label: of what is built.
        machine: a name of its own for each: two that were at work after each other have both paid.
        names: of the files.
    """

    def __init__(self, storage: Storage, label: str, machine: str, work: Path, names: Iterable[str]) -> None:
        self._storage, self._work, self._names = storage, work, tuple(names)
        self._folder, self._own = f"{UNFINISHED}/{label}", machine
        self._sent: dict[str, int] = {}

    def push(self) -> None:
        """Write those that have grown to the storage: what a journal's last whole line ends with."""
        for name in self._names:
            file = self._work / name
            if file.is_file() and file.stat().st_size > self._sent.get(name, 0):
                data = file.read_bytes()
                whole = data[: data.rfind(b"\n") + 1]
                if len(whole) > self._sent.get(name, 0):
                    self._storage.write(f"{self._folder}/{self._own}/{name}", whole)
                    self._sent[name] = len(whole)

    def drop(self) -> None:
        """Delete them from the storage: they are part of a published artifact."""
        if self._names:
            for name in self._storage.entries(self._folder):
                self._storage.delete(f"{self._folder}/{name}")


def pull(storage: Storage, names: Iterable[str], root: Path) -> None:
    """Bring every file of these names, of finished artifacts and unfinished work, below `root/partial`."""
    wanted = tuple(names)
    if not wanted:
        return
    for folder in (UNFINISHED, ARTIFACTS):
        for name, entry in storage.entries(folder).items():
            if name.rpartition("/")[2] in wanted:
                _bring(storage, f"{folder}/{name}", entry, root)


def _bring(storage: Storage, name: str, entry: Entry, root: Path) -> None:
    place = f"shared-{hashlib.sha256(name.encode()).hexdigest()[:20]}"
    target = root / "partial" / place / name.rpartition("/")[2]
    if target.is_file() and target.stat().st_size == entry.size:
        return
    with scratch(root / "partial", place) as directory:
        if storage.download(name, directory / target.name):
            sync(directory / target.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(directory / target.name, target)
