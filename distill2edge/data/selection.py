"""Which rows are taken: those whose content has the smallest hash, found in one pass and in bounded memory."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from distill2edge.data import leakage
from distill2edge.data.encode import Row


@dataclass(frozen=True, slots=True)
class Item:
    """A row, and its content without the words of the templates, by which duplicates are found."""

    row: Row
    content: leakage.Content


class Selection:
    """Rows in groups of the same content, ordered by a hash of seed and content; the first `room` rows are held.

    The order depends on seed and content alone: the same rows in another order give the same selection. A group is
    held whole, or not at all.

    Args:
        room: rows to hold at least, if there are so many; None holds all.

    Attributes:
        added: rows that were given, without those known to be twice.
        twice: rows that were given before.
        full: whether some were let go.
    """

    def __init__(self, seed: int, room: int | None) -> None:
        self._seed, self._room = seed, room
        self._groups: dict[bytes, dict[str, Item]] = {}
        self._largest: list[int] = []  # a heap of negated keys: the largest key comes first
        self._bound: bytes | None = None
        self._held = 0
        self.added = self.twice = 0

    @property
    def full(self) -> bool:
        """Whether some rows were let go."""
        return self._bound is not None

    def add(self, item: Item) -> bool:
        """Hold a row if it is among the first; False where it was given before."""
        normal = leakage.normal_form(item.content) or item.row.id
        key = hashlib.sha256(f"{self._seed}\0{normal}".encode("utf-8", "surrogatepass")).digest()
        if self._bound is not None and key >= self._bound:
            self.added += 1
            return True
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = {}
            if self._room is not None:
                heapq.heappush(self._largest, -int.from_bytes(key))
        elif item.row.id in group:
            self.twice += 1
            return False
        group[item.row.id] = item
        self.added += 1
        self._held += 1
        if self._room is not None:
            self._let_go(key, self._room)
        return True

    def groups(self) -> Iterator[list[Item]]:
        """The groups in the order of their hash; rows with the same prompt and response are taken once."""
        seen: set[str] = set()
        for key in sorted(self._groups):
            group = [self._groups[key][row] for row in sorted(self._groups[key]) if row not in seen]
            seen.update(item.row.id for item in group)
            if group:
                yield group

    def _let_go(self, key: bytes, room: int) -> None:
        if len(group := self._groups[key]) > 2 * room:  # more rows of one content than are wanted in all
            for row in sorted(group)[room:]:
                del group[row]
                self._held -= 1
        while self._largest:
            largest = (-self._largest[0]).to_bytes(len(key))
            size = len(self._groups[largest])
            if self._held - size < room:
                return
            heapq.heappop(self._largest)
            del self._groups[largest]
            self._held -= size
            self._bound = largest
