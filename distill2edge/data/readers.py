"""Local files to rows: JSON, JSON Lines, CSV, TSV, Parquet, text. Streaming; errors name file and line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill2edge.data.json_rows import read_json, read_json_lines
from distill2edge.data.lines import read_lines
from distill2edge.data.tables import read_table
from distill2edge.errors import UserError

Reader = Callable[[Path], Iterator[dict[str, Any]]]

_BATCH = 1024  # rows of Parquet in memory at once


def reader_of(path: Path) -> Reader | None:
    """The reader of a file by its ending (`.gz` before it is unpacked), or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    last = (suffixes[:-1] if zipped else suffixes)[-1:]
    if last == [".parquet"] and not zipped:
        return _parquet
    return _READERS.get(last[0]) if last else None


def _text(path: Path) -> Iterator[dict[str, Any]]:
    for _, line in read_lines(path):
        if line.strip():
            yield {"text": line.rstrip("\r\n")}


_READERS: dict[str, Reader] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".csv": read_table,
    ".tsv": read_table,
    ".txt": _text,
}


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            twice = [name for name, count in Counter(file.schema_arrow.names).items() if count > 1]
            if twice:
                raise UserError(
                    f"more than one column is named {twice[0]!r}", where=str(path), fix="name every column once"
                )
            for batch in file.iter_batches(batch_size=_BATCH, use_threads=False):
                batch.validate(full=True)
                for row in _plain_rows(batch):
                    done += 1
                    yield row
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"it cannot be read: {error.strerror}", where=str(path), fix="check the file") from error
        where = f"{path}, row {done + 1}" if done else str(path)
        raise UserError(
            f"not Parquet, or damaged: {' '.join(str(error).split())[:200]}", where=where, fix="write the file again"
        ) from error


def _plain_rows(batch: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # a date that Python cannot hold: the rows before it are sound
        for index in range(batch.num_rows):
            yield from batch.slice(index, 1).to_pylist()
