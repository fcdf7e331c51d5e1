"""Local files to rows: JSON, JSON Lines, CSV, TSV, Parquet, text. Streaming; errors name file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill2edge.data.arrow import read_arrow, read_parquet
from distill2edge.data.json_rows import read_json, read_json_lines
from distill2edge.data.lines import read_lines
from distill2edge.data.tables import read_table

Reader = Callable[[Path], Iterator[dict[str, Any]]]


def reader_of(path: Path) -> Reader | None:
    """The reader of a file by its ending (`.gz` before it is unpacked), or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    last = (suffixes[:-1] if zipped else suffixes)[-1:]
    return (_READERS if zipped else _READERS | _COLUMNS).get(last[0]) if last else None


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
_COLUMNS: dict[str, Reader] = {".parquet": read_parquet, ".arrow": read_arrow, ".feather": read_arrow}
