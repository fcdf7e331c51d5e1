"""A storage in memory, whose every request can be held up, counted or ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from distill2edge.pipeline.object_storage import Entry, Moved, nobody

EPOCH = datetime(2026, 1, 1).astimezone()


class Objects:
    """What the storages of several machines have in common."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.written: dict[str, datetime] = {}
        self.now = EPOCH
        self.lock = threading.RLock()

    def put(self, name: str, data: bytes) -> None:
        self.now += timedelta(seconds=1)
        self.held[name], self.written[name] = data, self.now


class FakeStorage:
    """As `Storage`, of one machine.

    Args:
        before: called with what is about to be done; what it raises ends the request before anything is done.
    """

    url = "memory://models/x"

    def __init__(self, objects: Objects, before: Callable[[str, str], None] = lambda what, name: None) -> None:
        self.objects, self._before = objects, before

    def create(self, name: str, data: bytes) -> bool:
        self._before("create", name)
        with self.objects.lock:
            if name in self.objects.held:
                return self.objects.held[name] == data
            self.objects.put(name, data)
            return True

    def write(self, name: str, data: bytes) -> None:
        self._before("write", name)
        with self.objects.lock:
            self.objects.put(name, data)

    def read(self, name: str) -> bytes | None:
        self._before("read", name)
        return self.objects.held.get(name)

    def entries(self, folder: str) -> dict[str, Entry]:
        self._before("entries", folder)
        head = f"{folder}/" if folder else ""
        with self.objects.lock:
            return {
                name.removeprefix(head): Entry(len(data), self.objects.written[name])
                for name, data in self.objects.held.items()
                if name.startswith(head)
            }

    def delete(self, name: str) -> None:
        self._before("delete", name)
        with self.objects.lock:
            self.objects.held.pop(name, None)

    def upload(self, path: Path, name: str, moved: Moved = nobody) -> None:
        self.write(name, path.read_bytes())
        moved(path.stat().st_size)

    def download(self, name: str, path: Path, moved: Moved = nobody) -> bool:
        data = self.read(name)
        if data is None:
            return False
        path.write_bytes(data)
        return True
