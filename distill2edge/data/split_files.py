"""The files of the splits: rows as Parquet, written and read a part at a time."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.data.encode import SPLITS
from distill2edge.data.examples import Row
from distill2edge.errors import UserError
from distill2edge.util.files import replacing
from distill2edge.util.lazy_sequence import LazySequence

_GROUP = 1 << 15  # rows of a row group, which is in memory as Arrow when it is written
_BATCH = 1 << 12  # rows in memory as Python has them


class Digest:
    """Count and content hash of rows, as data.json has them."""

    def __init__(self) -> None:
        self.rows, self._hash = 0, hashlib.sha256()

    def add(self, rows: Sequence[Row]) -> None:
        """The next ones."""
        self.rows += len(rows)
        self._hash.update("".join([row.id for row in rows]).encode())

    @property
    def facts(self) -> dict[str, Any]:
        """rows, sha256."""
        return {"rows": self.rows, "sha256": self._hash.hexdigest()}


def describe_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """Count and content hash of a split, as data.json has them."""
    digest = Digest()
    digest.add(rows)
    return digest.facts


def write_split(path: Path, rows: Sequence[Row]) -> None:
    """Write one split, whole or not at all; `read_rows` reads it."""
    numbered, paired = any(row.number for row in rows), any(row.pair is not None for row in rows)
    for _ in write_stream(path, rows, numbered=numbered, paired=paired):
        pass


def write_stream(path: Path, rows: Iterable[Row], *, numbered: bool, paired: bool) -> Iterator[Sequence[Row]]:
    """As `write_split`, of rows that are not all in memory; gives those that are written, a part at a time.

    Args:
        numbered, paired: whether any row has a `number`, a `pair`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = [("id", pa.string()), ("prompt", pa.string()), ("response", pa.string()), ("label", pa.int32())]
    schema = pa.schema([*known, *[("number", pa.int64())] * numbered, *[("pair", pa.string())] * paired])
    rest, written = iter(rows), False
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
        while True:
            parts: list[Any] = []
            while len(parts) * _BATCH < _GROUP and (part := list(islice(rest, _BATCH))):
                columns = {name: [getattr(row, name) for row in part] for name in schema.names}
                parts.append(pa.RecordBatch.from_pydict(columns, schema=schema))
                yield part
            if written and not parts:
                return
            file.write_table(pa.Table.from_batches(parts, schema).combine_chunks())
            written = True


def read_rows(data_dir: Path, split: str) -> StoredRows:
    """The rows of one split of a prepared data set, in their stored order.

    Raises:
        UserError: no such split.
    """
    path = Path(data_dir) / f"{split}.parquet"
    if not path.is_file():
        raise UserError(f"no {split} split in {data_dir}", fix=f"the splits are {', '.join(SPLITS)}; run `data` first")
    return StoredRows(path)


def labelled(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows that have a response."""
    has = np.fromiter((bool(row.response) for row in rows), bool, len(rows))
    if has.all():
        return rows
    places = np.flatnonzero(has)
    if has[: len(places)].all():  # those without one come last, as the data stage writes them
        return rows[: len(places)]
    return [row for row in rows if row.response]


class StoredRows(LazySequence[Row]):
    """Rows in a file, of which a part is in memory while they are looped over."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._path = path
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        self._columns = [field.name for field in fields(Row) if field.name in known]
        self._begins = list(accumulate(sizes, initial=0))
        self._last: tuple[int, Any] | None = None  # a row group and its rows: one is often asked for after another
        super().__init__(self._begins[-1])

    def __iter__(self) -> Iterator[Row]:
        if not isinstance(self._numbers, range) or self._numbers.step != 1:
            yield from super().__iter__()
            return
        import pyarrow.parquet as pq

        begin, end = self._numbers.start, self._numbers.stop
        groups = [at for at, first in enumerate(self._begins[:-1]) if first < end and self._begins[at + 1] > begin]
        if begin >= end or not groups:
            return
        at = self._begins[groups[0]]
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=self._columns, use_threads=False):
                part = batch.slice(max(begin - at, 0), max(end - max(at, begin), 0))
                at += len(batch)
                yield from _rows_of(part)

    def _make(self, number: int) -> Row:
        import pyarrow.parquet as pq

        group = bisect_right(self._begins, number) - 1
        if self._last is None or self._last[0] != group:
            with pq.ParquetFile(self._path) as file:
                self._last = group, file.read_row_group(group, columns=self._columns, use_threads=False)
        (row,) = _rows_of(self._last[1].slice(number - self._begins[group], 1))
        return row


def _rows_of(table: Any) -> Iterator[Row]:
    names, columns = table.schema.names, [column.to_pylist() for column in table.columns]
    return (Row(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True))
