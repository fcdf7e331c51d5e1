"""Which rows are taken: those whose content has the smallest hash, found in one pass and in bounded memory."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from distill2edge.data import leakage
from distill2edge.data.sorted_items import Item, SortedItems

_HELD = 16 << 20  # bytes of rows in memory, about: beyond them they are sorted on disk
_OBJECTS = 700  # bytes of a row beside its characters


class Selection:
    """Rows in groups of the same content, ordered by a hash of seed and content; the first `room` rows are taken.

    The order depends on seed and content alone: the same rows in another order give the same selection. A group is
    taken whole, or not at all. Many rows are held on disk; which of them are there twice is known when all are given.

    Args:
        room: rows to take at least, if there are so many; None takes all.
        held: bytes of rows in memory.

    Attributes:
        added: rows that were given, without those known to be twice.
        twice: rows that were given before.
        numbered, paired: whether any row has a `number`, a `pair`.
    """

    def __init__(self, seed: int, room: int | None, held: int = _HELD) -> None:
        self._seed, self._room, self._most = seed, room, held
        self._groups: dict[bytes, dict[str, Item]] = {}
        self._largest: list[int] = []  # a heap of negated keys: the largest key comes first
        self._bound: bytes | None = None
        self._held = self._size = 0
        self._disk: SortedItems | None = None
        self.added = self.twice = 0
        self.numbered = self.paired = False

    @property
    def full(self) -> bool:
        """Whether some rows were let go."""
        more = self._disk is not None and self._room is not None and self._disk.count > self.count
        return self._bound is not None or more

    @property
    def count(self) -> int:
        """Rows in all groups, once all are given."""
        if self._disk is not None and self._room is None:
            return self._disk.count
        return sum(map(len, self.groups()))

    def add(self, item: Item, number: int = 0) -> bool:
        """Give a row; False where it is known that it was given before.

        Args:
            number: of the row, for `settle`.

        Raises:
            EnvironmentFault: the disk is full.
        """
        normal = leakage.normal_form(item.content) or item.row.id
        key = hashlib.sha256(f"{self._seed}\0{normal}".encode("utf-8", "surrogatepass")).digest()
        self.numbered |= item.row.number > 0
        self.paired |= item.row.pair is not None
        if self._bound is not None and key >= self._bound:
            self.added += 1
            return True
        if self._disk is not None:
            self._disk.add(key, item, number)
            self.added += 1
            return True
        return self._hold(key, item)

    def settle(self, twice: Callable[[Item, int], None]) -> None:
        """All rows are given: `twice` is called for each that was given before, and for which `add` could not know."""
        if self._disk is None:
            return
        before = self.twice

        def count(item: Item, number: int) -> None:
            self.twice += 1
            twice(item, number)

        self._disk.sort(count)
        self.added -= self.twice - before

    def groups(self) -> Iterator[list[Item]]:
        """The groups in the order of their hash; rows with the same prompt and response are taken once."""
        taken = 0
        for group in self._in_memory() if self._disk is None else self._disk.groups():
            if self._room is not None and taken >= self._room:
                return
            yield group
            taken += len(group)

    def _in_memory(self) -> Iterator[list[Item]]:
        seen: set[str] = set()
        for key in sorted(self._groups):
            group = [self._groups[key][row] for row in sorted(self._groups[key]) if row not in seen]
            seen.update(item.row.id for item in group)
            if group:
                yield group

    def _hold(self, key: bytes, item: Item) -> bool:
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
        self._size += _size(item)
        if self._room is not None:
            self._let_go(key, self._room)
        if self._size > self._most:
            self._move()
        return True

    def _move(self) -> None:
        """To the disk."""
        self._disk = SortedItems()
        for key, group in self._groups.items():
            for item in group.values():
                self._disk.add(key, item, 0)
        self._groups.clear()
        self._largest.clear()

    def _let_go(self, key: bytes, room: int) -> None:
        if len(group := self._groups[key]) > 2 * room:  # more rows of one content than are wanted in all
            for row in sorted(group)[room:]:
                self._size -= _size(group.pop(row))
                self._held -= 1
        while self._largest:
            largest = (-self._largest[0]).to_bytes(len(key))
            size = len(self._groups[largest])
            if self._held - size < room:
                return
            heapq.heappop(self._largest)
            self._size -= sum(map(_size, self._groups.pop(largest).values()))
            self._held -= size
            self._bound = largest


def _size(item: Item) -> int:
    content = item.content if isinstance(item.content, str) else "".join(item.content)
    return _OBJECTS + len(item.row.prompt) + len(item.row.response) + len(content)


@dataclass(frozen=True)
class Rest(Collection[Item]):
    """The rows of a selection beyond its first groups; they are read anew by each loop.

    Attributes:
        groups: how many groups are left out at the start.
        count: of the rows after them.
        left_out: numbers of rows among these that are not taken.
        most: rows to take; None takes all.
    """

    selection: Selection
    groups: int
    count: int
    left_out: frozenset[int] = frozenset()
    most: int | None = None

    def __len__(self) -> int:
        found = self.count - len(self.left_out)
        return found if self.most is None else min(found, self.most)

    def __iter__(self) -> Iterator[Item]:
        rows = (item for group in islice(self.selection.groups(), self.groups, None) for item in group)
        return islice((item for number, item in enumerate(rows) if number not in self.left_out), self.most)

    def __contains__(self, item: object) -> bool:
        return any(item == each for each in self)

    def without(self, numbers: frozenset[int]) -> Rest:
        """The same without some of them; of those of all that are left."""
        assert not self.left_out
        return replace(self, left_out=numbers)

    def first(self, most: int | None) -> Rest:
        """The first of them."""
        return replace(self, most=most)
