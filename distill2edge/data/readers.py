"""Local files to rows: JSON, JSON Lines, CSV, TSV, Parquet, text. Streaming; errors name file and line."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from distill2edge.errors import UserError

Reader = Callable[[Path], Iterator[dict[str, Any]]]


def reader_of(path: Path) -> Reader | None:
    """The reader of a file by its ending (`.gz` before it is unpacked), or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    last = (suffixes[:-1] if zipped else suffixes)[-1:]
    readers = {".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv, ".txt": _text}
    if last == [".parquet"] and not zipped:
        return _parquet
    return readers.get(last[0]) if last else None


def _open_text(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return cast("IO[str]", gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return open(path, encoding="utf-8-sig", newline="")


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with _reading(path), _open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _object(_parse(line, path, number), path, f"line {number}")


def _json(path: Path) -> Iterator[dict[str, Any]]:
    with _reading(path), _open_text(path) as file:
        text = file.read()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Extra data"):  # JSON Lines under the name .json, as hub data sets have it
            yield from _jsonl(path)
            return
        raise _not_json(error, path, error.lineno) from error
    if isinstance(value, dict):  # the one list in it
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        value = lists[0] if len(lists) == 1 else [value]
    for number, entry in enumerate(value if isinstance(value, list) else [value], 1):
        yield _object(entry, path, f"entry {number}")


def _parse(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise _not_json(error, path, number) from error


def _not_json(error: json.JSONDecodeError, path: Path, line: int) -> UserError:
    return UserError(f"not JSON: {error.msg}", where=f"{path}:{line}", fix="mend that line")


def _object(value: Any, path: Path, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place} is not an object with fields", where=str(path), fix='rows look like {"prompt": ...}')
    return value


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    delimiter = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","
    with _reading(path), _open_text(path) as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        "a row with another number of fields than the header",
                        where=f"{path}:{reader.line_num}",
                        fix='quote fields that hold the delimiter: "a, b"',
                    )
                yield row
        except csv.Error as error:
            raise UserError(f"not CSV: {error}", where=f"{path}:{reader.line_num}", fix="mend that line") from error


def _text(path: Path) -> Iterator[dict[str, Any]]:
    with _reading(path), _open_text(path) as file:
        for line in file:
            if line.strip():
                yield {"text": line.rstrip("\r\n")}


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"not Parquet: {error}", where=str(path), fix="write the file again") from error
    with file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


class _reading:
    """Turns what a damaged file raises into a UserError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"not UTF-8: {error}", where=str(self.path), fix="convert it to UTF-8") from error
        if isinstance(error, (gzip.BadGzipFile, EOFError)):
            raise UserError(f"not gzip, or cut off: {error}", where=str(self.path), fix="pack it again") from error
