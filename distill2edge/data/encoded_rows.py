"""Many encoded rows: in memory while they are few, then in a file, of which a row is read when it is asked for."""

from __future__ import annotations

import marshal
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np

from distill2edge.data.examples import Encoded
from distill2edge.util.lazy_sequence import LazySequence
from distill2edge.util.record_file import Records


class EncodedRows(LazySequence[Encoded]):
    """Encoded rows: beside the first megabytes, 8 bytes of memory for each. They can be pickled for a process that sees
    the same disk, as long as they are held here."""

    def __init__(self, rows: Iterable[Encoded]) -> None:
        """`rows`: read once.

        Raises:
            EnvironmentFault: the disk is full.
        """
        self._records = Records()
        for row in rows:
            self._records.append(_packed(row))
        super().__init__(len(self._records))

    def _make(self, number: int) -> Encoded:
        return _unpacked(self._records[number])


class Joined(LazySequence[Encoded]):
    """The rows of several sequences, one after another."""

    def __init__(self, parts: Iterable[Sequence[Encoded]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._begins = list(accumulate(map(len, self._parts), initial=0))
        super().__init__(self._begins[-1])

    def __iter__(self) -> Iterator[Encoded]:
        if isinstance(self._numbers, range) and self._numbers == range(self._begins[-1]):
            for part in self._parts:
                yield from part
        else:
            yield from super().__iter__()

    def _make(self, number: int) -> Encoded:
        at = bisect_right(self._begins, number) - 1
        return self._parts[at][number - self._begins[at]]


def unique(rows: Sequence[Encoded]) -> Sequence[Encoded]:
    """The rows without those whose id an earlier one has; 12 bytes of memory for each while they are looked through."""
    keys = np.fromiter((hash(row.id) for row in rows), np.int64, len(rows))
    first = np.sort(np.unique(keys, return_index=True)[1])
    if len(first) == len(rows):
        return rows
    return rows.picked(first) if isinstance(rows, LazySequence) else [rows[number] for number in first.tolist()]


def _packed(row: Encoded) -> bytes:
    types = None if row.types is None else bytes(row.types)
    tags = None if row.tags is None else tuple(row.tags)
    more = (row.label, row.row, row.number, row.words, tuple(row.places), tags, types, row.labels, row.query)
    return marshal.dumps((row.id, array("i", row.ids).tobytes(), bytes(row.mask), *more))


def _unpacked(record: bytes) -> Encoded:
    name, raw, mask, label, row, number, words, places, tags, types, labels, query = marshal.loads(record)
    ids = array("i")
    ids.frombytes(raw)
    segments = None if types is None else list(types)
    return Encoded(
        name, ids.tolist(), list(map(bool, mask)), label, row, number, words, places, tags, segments, labels, query
    )
