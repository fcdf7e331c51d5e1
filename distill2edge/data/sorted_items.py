"""Rows in the order of a hash, on disk: more than memory holds are sorted bucket by bucket."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter

import numpy as np

from distill2edge.data import leakage
from distill2edge.data.examples import Row
from distill2edge.util.record_file import Buckets, Chunks

_BUCKETS = 256
_CHUNK = 1024  # records that are read together
_KEY, _ID = 32, 32  # bytes that a record begins with: of the hash, and of the row's id
_SORTED_BY = itemgetter(slice(_KEY + _ID))
_GROUPED_BY = itemgetter(slice(_KEY))


@dataclass(frozen=True, slots=True)
class Item:
    """A row, and its content without the words of the templates, by which duplicates are found."""

    row: Row
    content: leakage.Content


class SortedItems:
    """Items by key, in groups of the same one: given in any order, then sorted, then read as often as wanted."""

    def __init__(self) -> None:
        self._unsorted, self._sorted = Buckets(_BUCKETS), Chunks()
        self._repeated: frozenset[bytes] = frozenset()

    def add(self, key: bytes, item: Item, number: int) -> None:
        """Give an item; `number`: of its row, for what is found to be there twice.

        Raises:
            EnvironmentFault: the disk is full.
        """
        row = item.row
        known = (row.prompt, row.response, row.label, row.number, row.pair, item.content, number)
        self._unsorted.put(key[0], key + row.id.encode() + marshal.dumps(known))

    def sort(self, twice: Callable[[Item, int], None]) -> None:
        """Sort what was given; nothing more is, then.

        Args:
            twice: called for every item whose row and key another has that came earlier; it is left out.
        """
        ids = Buckets(_BUCKETS)
        for bucket in range(_BUCKETS):
            kept: list[bytes] = []
            last = b""
            for record in sorted(self._unsorted.read(bucket), key=_SORTED_BY):
                mark = _SORTED_BY(record)
                if mark == last:
                    twice(*_item(record))
                    continue
                last = mark
                kept.append(record)
                known = bytes.fromhex(mark[_KEY : _KEY + 16].decode())
                ids.put(known[0], known)
            for at in range(0, len(kept), _CHUNK):
                self._sorted.append(kept[at : at + _CHUNK])
        self._repeated = frozenset(each for bucket in range(_BUCKETS) for each in _repeated(ids.read(bucket)))
        for done in (ids, self._unsorted):
            done.close()

    def groups(self) -> Iterator[list[Item]]:
        """The groups in the order of their keys, each in the order of its ids; a row under several keys is given once,
        under the first."""
        for group in self._groups():
            yield [_item(record)[0] for record in group]

    @cached_property
    def count(self) -> int:
        """Of the items in all groups."""
        return sum(map(len, self._groups()))

    def _groups(self) -> Iterator[list[bytes]]:
        seen: set[bytes] = set()
        for _, records in groupby((each for chunk in self._sorted for each in chunk), _GROUPED_BY):
            group = list(records)
            if self._repeated:
                group = [each for each in group if not self._again(each, seen)]
            if group:
                yield group

    def _again(self, record: bytes, seen: set[bytes]) -> bool:
        known = bytes.fromhex(record[_KEY : _KEY + 16].decode())
        if known not in self._repeated:
            return False
        again = known in seen
        seen.add(known)
        return again


def _repeated(ids: list[bytes]) -> list[bytes]:
    """Those that are there more than once."""
    if not ids:
        return []
    found, counts = np.unique(np.frombuffer(b"".join(ids), np.uint64), return_counts=True)
    return [each.tobytes() for each in found[counts > 1]]


def _item(record: bytes) -> tuple[Item, int]:
    prompt, response, label, own, pair, content, number = marshal.loads(record[_KEY + _ID :])
    row = Row(record[_KEY : _KEY + _ID].decode(), prompt, response, label, own, pair)
    return Item(row, content), number
