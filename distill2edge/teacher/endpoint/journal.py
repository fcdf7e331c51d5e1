"""Answers on disk the moment they arrive: what was paid for is never asked again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "answers.jsonl"


class Journal:
    """An append-only file of one JSON object per line, each fsynced before `append` returns.

    A line that a kill cut short is taken off when the file is opened. Lines: `{"key": ..., answer}`, and
    `{"charged": ...}` for requests whose answer never came but may have been charged.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / FILE
        self._lock = threading.Lock()
        self.answers: dict[str, dict[str, Any]] = {}
        self.charges: list[dict[str, Any]] = []
        whole = self._load()
        self._file = open(self._path, "ab")  # noqa: SIM115 (lives as long as the journal)
        if self._file.tell() != whole:
            self._file.truncate(whole)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and wait for the disk."""
        line = (json.dumps(record, ensure_ascii=True) + "\n").encode()
        with self._lock:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._keep(dict(record))

    def close(self) -> None:
        """Close the file. Closing twice does nothing."""
        self._file.close()

    def _load(self) -> int:
        """Read the whole lines; returns the bytes they take."""
        if not self._path.is_file():
            return 0
        whole = 0
        with open(self._path, "rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n") or not isinstance(record, dict):
                    break
                self._keep(record)
                whole += len(line)
        return whole

    def _keep(self, record: dict[str, Any]) -> None:
        if "key" in record:
            self.answers[str(record["key"])] = record
        else:
            self.charges.append(record)
