"""A numbered series of objects, of which the newest counts.

Number n + 1 is created once, by the server's word, so of all who have seen n exactly one writes what follows it.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from distill2edge.pipeline.object_storage import Storage

_DIGITS = 12


class Series:
    """The objects `FOLDER/000000000001`, `FOLDER/000000000002` ... of a storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder

    def numbers(self) -> list[int]:
        """Those that are there, in order."""
        return numbers_in(self._storage.entries(self._folder))

    def newest(self) -> int:
        """The highest of them; 0 without one."""
        return max(self.numbers(), default=0)

    def read(self, number: int) -> bytes | None:
        """The bytes of one of them; None where it is gone."""
        return self._storage.read(self.place(number))

    def append(self, number: int, data: bytes) -> bool:
        """Write the number; False where another has."""
        return self._storage.create(self.place(number), data)

    def delete(self, number: int) -> None:
        """Delete one of them."""
        self._storage.delete(self.place(number))

    def place(self, number: int) -> str:
        """The name of one of them."""
        return f"{self._folder}/{number:0{_DIGITS}d}"


def numbers_in(names: object) -> list[int]:
    """The numbers of a series among names of its folder, in order."""
    found = (PurePosixPath(str(name)).name for name in names)  # type: ignore[attr-defined]
    return sorted(int(name) for name in found if len(name) == _DIGITS and name.isdecimal())
