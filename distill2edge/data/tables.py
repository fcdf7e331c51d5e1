"""CSV and TSV to rows: any length of field, the separator as it is, and errors with the line where a row begins."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from distill2edge.data.lines import LONGEST_LINE, read_lines
from distill2edge.errors import UserError

_SEPARATORS = ",;\t|"


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a CSV or TSV file: the first line names the columns; a column without a name is left out.

    The separator is what the header uses: comma, semicolon, tab or `|`; a first line `sep=X` as spreadsheets write it
    names it.

    Raises:
        UserError: columns of the same name, a row with another number of fields, a quote that is not closed, text that
            cannot be read; names the line where the row begins.
    """
    csv.field_size_limit(LONGEST_LINE)
    lines = _Lines(path)
    separator, header = _start(lines, path)
    # Where the header has a blank after each separator, the rows have too, and a quote may follow it.
    spaced = separator != "\t" and f"{separator} " in header
    reader = csv.reader(chain([header], lines), delimiter=separator, strict=True, skipinitialspace=spaced)
    lines.begin = lines.number
    columns: list[str] | None = None
    keep: list[int] = []
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _not_csv(error, path, lines) from error
        if not fields or (len(fields) == 1 and not fields[0].strip() and (columns is None or len(columns) > 1)):
            lines.begin = lines.number + 1
            continue
        if columns is None:
            columns = [name.strip() for name in fields]
            _check_columns(columns, path, lines.begin)
            keep = [index for index, name in enumerate(columns) if name]
        elif len(fields) != len(columns):
            raise _another_number(fields, columns, path, lines)
        else:
            yield {columns[index]: fields[index] for index in keep}
        lines.begin = lines.number + 1


class _Lines:
    """The lines of a file, and the numbers of the present one and of the one where the present row begins."""

    def __init__(self, path: Path) -> None:
        self._lines = read_lines(path)
        self.number = 0
        self.begin = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        return line


def _start(lines: _Lines, path: Path) -> tuple[str, str]:
    """The separator and the header's line."""
    header = next((line for line in lines if line.strip()), "")
    first = header.strip().strip('"').lower()
    if first.startswith("sep=") and len(first) == 5:
        return header.strip().strip('"')[4], next(lines, "")
    if ".tsv" in [suffix.lower() for suffix in path.suffixes]:
        return "\t", header
    outside = Counter("".join(header.split('"')[::2]))
    return max(_SEPARATORS, key=lambda each: outside[each]), header  # the first of them where they are equal


def _check_columns(columns: list[str], path: Path, line: int) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        raise UserError(
            f"{len(twice)} name{'s' if len(twice) > 1 else ''} of more than one column: "
            f"{', '.join(repr(name[:40]) for name in twice[:5])}",
            where=f"{path}:{line}",
            fix="name every column once: which of them is meant cannot be known",
        )
    if not any(columns):
        raise UserError("no column has a name", where=f"{path}:{line}", fix="the first line names the columns")


def _another_number(fields: list[str], columns: list[str], path: Path, lines: _Lines) -> UserError:
    spans = f" (the row ends in line {lines.number})" if lines.number > lines.begin else ""
    return UserError(
        f"a row with another number of fields than the header: {len(fields)}, not {len(columns)}{spans}",
        where=f"{path}:{lines.begin}",
        fix='quote fields that hold the delimiter: "a, b"',
    )


def _not_csv(error: csv.Error, path: Path, lines: _Lines) -> UserError:
    what = str(error)
    if "unexpected end of data" in what or "field limit" in what:
        return UserError(
            "not CSV: a quote is opened in this row and never closed",
            where=f"{path}:{lines.begin}",
            fix='close it, or write a quotation mark within a quoted field twice: "she said ""yes"""',
        )
    return UserError(
        f"not CSV: {what}", where=f"{path}:{lines.begin}", fix="mend that line: a quotation mark within a quoted "
        'field is written twice ("she said ""yes""")'
    )  # fmt: skip
