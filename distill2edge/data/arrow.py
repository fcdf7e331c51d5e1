"""Parquet and Arrow to rows: a value that Python cannot hold is an error of the row that uses it, not of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill2edge.data.values import Unreadable
from distill2edge.errors import UserError

_BATCH = 1024  # rows in memory at once


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file.

    Raises:
        UserError: another kind of file, a damaged one, or columns of the same name; names the row, where it is known.
    """
    import pyarrow.parquet as pq

    with _reading(path, "Parquet") as place, pq.ParquetFile(path, pre_buffer=False) as file:
        _check_names(file.schema_arrow.names, path)
        yield from rows_of(file.iter_batches(batch_size=_BATCH, use_threads=False), place)


def read_arrow(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of an Arrow file, or stream, or Feather file (version 2).

    Raises:
        UserError: as `read_parquet`.
    """
    import pyarrow as pa

    with _reading(path, "Arrow") as place, pa.OSFile(str(path)) as source:
        head = source.read(6)
        if head[:4] == b"FEA1":
            raise UserError("Feather version 1", where=str(path), fix="write it again, as Parquet or Feather 2")
        if head == b"ARROW1":
            opened = pa.ipc.open_file(source)
            batches: Iterable[Any] = (opened.get_batch(index) for index in range(opened.num_record_batches))
        else:
            source.seek(0)
            opened = batches = pa.ipc.open_stream(source)
        _check_names(opened.schema.names, path)
        yield from rows_of(batches, place)


@dataclass
class Place:
    """How many rows were given."""

    done: int = 0


def rows_of(batches: Iterable[Any], place: Place) -> Iterator[dict[str, Any]]:
    """Rows of record batches or tables, each with its columns' names; what cannot be read is `Unreadable`."""
    for large in batches:
        for start in range(0, large.num_rows, _BATCH):
            batch = large.slice(start, _BATCH)
            names = batch.schema.names
            columns = [_values(batch.column(index)) for index in range(len(names))]
            for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
                place.done += 1
                yield dict(zip(names, values, strict=True))


def _values(column: Any) -> list[Any]:
    """The values of a column; where there is one that Python has no form of, each is read alone."""
    try:
        column.validate(full=True)
        return column.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError, KeyError):
        return [_value(column.slice(index, 1)) for index in range(len(column))]


def _value(cell: Any) -> Any:
    try:
        cell.validate(full=True)
        return cell.to_pylist()[0]
    except (ValueError, OverflowError, KeyError) as error:
        return _unreadable(cell.type, error)


def _unreadable(kind: Any, error: Exception) -> Unreadable:
    import pyarrow as pa

    leave = 'leave such rows out with data.filter: "{} is readable"'
    zone = getattr(kind, "tz", None)
    if zone and not isinstance(error, OverflowError):
        return Unreadable(
            f"is a time in the zone {zone[:60]!r}, which this machine does not know",
            "write that column of the file in UTC: table['{}'].cast(pyarrow.timestamp('us', 'UTC'))",
        )
    if pa.types.is_temporal(kind):
        return Unreadable(f"is a {kind} that no calendar of Python's holds (years 1 to 9999)", leave)
    if isinstance(error, UnicodeError) or "UTF8" in str(error):
        return Unreadable("is a text that is not UTF-8", leave)
    if "duplicate field names" in str(error):
        return Unreadable("is an object that has a field twice", "write the file with every field named once")
    reason = " ".join(str(error).split())[:120]
    return Unreadable(f"is a {str(kind)[:60]} that cannot be read ({reason})", leave)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[Place]:
    import pyarrow as pa

    place = Place()
    try:
        yield place
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"it cannot be read: {error.strerror}", where=str(path), fix="check the file") from error
        where = f"{path}, row {place.done + 1}" if place.done else str(path)
        reason = " ".join(str(error).split())[:200]
        if "encrypt" in reason.lower():
            raise UserError(f"{kind} that is encrypted", where=where, fix="write it without encryption") from error
        raise UserError(f"not {kind}, or damaged: {reason}", where=where, fix="write the file again") from error


def _check_names(names: Iterable[str], path: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"more than one column is named {twice[0]!r}", where=str(path), fix="name every column once")
