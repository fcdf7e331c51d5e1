"""Answers on disk the moment they arrive: what was paid for is never asked again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill2edge.pipeline.stage_files import EARLIER
from distill2edge.util.files import disk_full, disk_is_full

FILE = "answers.jsonl"
BALLAST = "answers.ballast"
_LEAST_BALLAST = 1 << 20


class Journal:
    """An append-only file of one JSON object per line, each fsynced before `append` returns.

    A line that a kill cut short is taken off when the file is opened. Lines: `{"key": ..., "at": ..., answer}`, with
    `"reused": true` where another stage has paid for it, and `{"charged": ...}` for requests whose answer never came
    but may have been charged.

    Beside it lies a file of nothing, whose room is given up where the disk is full: the answers under way find room.

    Args:
        room: bytes that the answers under way may take together.

    Raises:
        EnvironmentFault: the disk is full, before anything is paid.
    """

    def __init__(self, directory: Path, room: int = _LEAST_BALLAST) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path, self._ballast = directory / FILE, directory / BALLAST
        self._lock = threading.Lock()
        self.answers: dict[str, dict[str, Any]] = {}
        self.charges: list[dict[str, Any]] = []
        self._end = self._load()
        try:
            _reserve(self._ballast, max(room, _LEAST_BALLAST))
            self._handle: int | None = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.ftruncate(self._handle, self._end)
        except OSError as error:
            if disk_full(error):
                raise disk_is_full(directory) from error
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and wait for the disk.

        Raises:
            EnvironmentFault: the disk is full; the line was written all the same, as long as the room held.
        """
        line = (json.dumps(record, ensure_ascii=True) + "\n").encode()
        with self._lock:
            try:
                self._write(line)
            except OSError as error:
                if not disk_full(error):
                    raise
                self._ballast.unlink(missing_ok=True)
                self._write(line)
                self._keep(dict(record))
                raise disk_is_full(self._path.parent) from error
            self._keep(dict(record))

    def close(self) -> None:
        """Close the file. Closing twice does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            self._ballast.unlink(missing_ok=True)

    def _write(self, line: bytes) -> None:
        assert self._handle is not None
        os.lseek(self._handle, self._end, os.SEEK_SET)
        written = 0
        while written < len(line):
            written += os.write(self._handle, line[written:])
        os.fsync(self._handle)
        self._end += written

    def _load(self) -> int:
        """Read the whole lines; returns the bytes they take."""
        if not self._path.is_file():
            return 0
        whole = 0
        for record, size in _lines(self._path):
            self._keep(record)
            whole += size
        return whole

    def _keep(self, record: dict[str, Any]) -> None:
        if "key" in record:
            self.answers[str(record["key"])] = record
        else:
            self.charges.append(record)


def earlier_answers(directory: Path, place: str) -> dict[str, dict[str, Any]]:
    """Answers of one endpoint in the journals of other stages, by their keys.

    Args:
        directory: of this stage, where its store has linked them.
        place: `at` of the lines that serve.
    """
    found = {}
    for path in sorted((directory / EARLIER).glob(f"*{FILE}")):
        with suppress(FileNotFoundError):  # removed since
            for record, _ in _lines(path):
                if record.get("at") == place and "key" in record:
                    found[str(record["key"])] = record
    return found


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole lines of a journal, with their sizes in bytes."""
    with open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not line.endswith(b"\n") or not isinstance(record, dict):
                return
            yield record, len(line)


def _reserve(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))
