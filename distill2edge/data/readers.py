"""Local files to rows: JSON, JSON Lines, CSV, TSV, Parquet, Arrow, text. Streaming; errors name file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill2edge.data.arrow import read_arrow, read_parquet
from distill2edge.data.json_rows import read_json, read_json_lines
from distill2edge.data.lines import name_in_zip, read_lines
from distill2edge.data.tables import read_table
from distill2edge.errors import UserError
from distill2edge.util.file_kinds import endings, holds_rows, not_rows

Reader = Callable[[Path], Iterator[dict[str, Any]]]


def reader_of(path: Path) -> Reader | None:
    """The reader of a file by its ending, without that of its packing; None where there is none."""
    if not holds_rows(path):
        return None
    ending, packing = endings(path)
    if packing == ".zip" and (inside := name_in_zip(path)):
        ending = endings(inside)[0]
    return _READERS.get(ending, _READERS[".txt"])


def unknown_kind(path: Path) -> UserError:
    """The error for a file that `reader_of` has no reader for."""
    what, fix = not_rows(path)
    return UserError(what, where=str(path), fix=fix)


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
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
