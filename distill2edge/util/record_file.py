"""Records that are too many for memory: in a file without a name, which goes when it is closed or the process ends."""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from distill2edge.util.files import disk_full, disk_is_full

_place: ContextVar[Path | None] = ContextVar("place", default=None)
_HELD = 4 << 20  # bytes of records that wait for a write


@contextmanager
def unnamed_files_in(directory: Path) -> Iterator[None]:
    """Let unnamed files lie on the disk of this directory while the block runs; else they are where the system says."""
    token = _place.set(directory)
    try:
        yield
    finally:
        _place.reset(token)


def unnamed_file() -> IO[bytes]:
    """A file without a name, not buffered."""
    return tempfile.TemporaryFile(dir=_place.get(), buffering=0)


def write_to(file: IO[bytes], raw: Any) -> None:
    """Write all of it at the file's place.

    Raises:
        EnvironmentFault: the disk is full.
    """
    view = memoryview(raw).cast("B")
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        if disk_full(error):
            raise disk_is_full(_place.get()) from error
        raise


class Chunks:
    """Lists of records, read by number; only where they lie is in memory."""

    def __init__(self) -> None:
        self._file, self._starts = unnamed_file(), array("Q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, records: Sequence[bytes]) -> None:
        """Write a list of records.

        Raises:
            EnvironmentFault: the disk is full.
        """
        raw = marshal.dumps(list(records))
        self._file.seek(self._starts[-1])
        write_to(self._file, raw)
        self._starts.append(self._starts[-1] + len(raw))

    def __getitem__(self, number: int) -> list[bytes]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        self._file.seek(self._starts[number])
        size = self._starts[number + 1] - self._starts[number]
        parts = []
        while size and (part := self._file.read(size)):
            parts.append(part)
            size -= len(part)
        found: list[bytes] = marshal.loads(b"".join(parts))  # of our own, and nobody else can have written it
        return found

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


class Buckets:
    """Records by bucket, those of one bucket in the order in which they came."""

    def __init__(self, count: int) -> None:
        self._waiting: list[list[bytes]] = [[] for _ in range(count)]
        self._of = [array("L") for _ in range(count)]
        self._chunks, self._size = Chunks(), 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, bucket: int, record: bytes) -> None:
        """Add a record.

        Raises:
            EnvironmentFault: the disk is full.
        """
        self._waiting[bucket].append(record)
        self._size += len(record) + 64  # as an object
        if self._size > _HELD:
            self._write()

    def read(self, bucket: int) -> list[bytes]:
        """The records of a bucket."""
        return [each for number in self._of[bucket] for each in self._chunks[number]] + self._waiting[bucket]

    def close(self) -> None:
        """Let the file go."""
        self._chunks.close()

    def _write(self) -> None:
        for waiting, of in zip(self._waiting, self._of, strict=True):
            if waiting:
                of.append(len(self._chunks))
                self._chunks.append(waiting)
                waiting.clear()
        self._size = 0
