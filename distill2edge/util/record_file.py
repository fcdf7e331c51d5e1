"""Records that are too many for memory: in a file that goes when it is closed or the process ends. It has a name only
where another process reads it."""

from __future__ import annotations

import marshal
import os
import tempfile
import weakref
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
    with _room():
        while view:
            view = view[file.write(view) :]


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
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


class Records:
    """Records by number: in memory while they are few, then in a file that goes with this object.

    They can be pickled for a process that sees the same disk, as long as this object is there.
    """

    def __init__(self, held: int = _HELD) -> None:
        """`held`: bytes in memory."""
        self._waiting: list[bytes] = []  # those that are not in the file, which are the last
        self._starts = array("Q", [0])
        self._written, self._held = 0, held
        self._path: Path | None = None
        self._file = -1

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, record: bytes) -> None:
        """Add a record.

        Raises:
            EnvironmentFault: the disk is full.
        """
        self._waiting.append(record)
        self._starts.append(self._starts[-1] + len(record))
        size = self._starts[-1] - self._starts[self._written]
        if size + 64 * len(self._waiting) > self._held:
            self._write()

    def __getitem__(self, number: int) -> bytes:
        if number >= self._written:
            return self._waiting[number - self._written]
        start = self._starts[number]
        return _read_at(self._file, self._starts[number + 1] - start, start)

    def _write(self) -> None:
        if self._path is None:
            handle, name = tempfile.mkstemp(prefix=".rows-", dir=_place.get())
            self._path, self._file = Path(name), handle
            weakref.finalize(self, _let_go, handle, name)
        with _room(), open(self._file, "ab", buffering=0, closefd=False) as file:
            write_to(file, b"".join(self._waiting))
        self._written += len(self._waiting)
        self._waiting.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": -1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if self._path is not None:
            self._file = os.open(self._path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)


def _read_at(file: int, size: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, size, start)
    os.lseek(file, start, os.SEEK_SET)  # Windows; a reader of another thread waits for nothing here
    return os.read(file, size)


def _let_go(handle: int, name: str) -> None:
    os.close(handle)
    Path(name).unlink(missing_ok=True)
