"""CSV and TSV to rows: any length of field, the separator as it is, and errors with the line where a row begins."""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distill2edge.data.lines import LONGEST_LINE, read_lines
from distill2edge.errors import UserError
from distill2edge.util.file_kinds import endings

_SEPARATORS = ",;\t|"
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
_SAMPLE = 30  # lines that are looked at before they are read


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
    spaced = separator != "\t" and f"{separator} " in _outside("".join(header))
    reader = csv.reader(chain(header, lines), delimiter=separator, strict=True, skipinitialspace=spaced)
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
        self._ahead: deque[tuple[int, str]] = deque()
        self.number = 0
        self.begin = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = self._ahead.popleft() if self._ahead else next(self._lines)
        return line

    def ahead(self, count: int) -> list[str]:
        """The next lines, which stay where they are."""
        self._ahead.extend(islice(self._lines, max(count - len(self._ahead), 0)))
        return [line for _, line in islice(self._ahead, count)]


def _start(lines: _Lines, path: Path) -> tuple[str, list[str]]:
    """The separator and the header, which is more than one line where a quoted name is."""
    first = next((line for line in lines if line.strip()), "")
    lines.begin = lines.number
    named = first.strip().strip('"')
    if named.lower().startswith("sep=") and len(named) == 5:
        first = next(lines, "")
        lines.begin = lines.number
        return named[4], _closed(first, lines)
    header = _closed(first, lines)
    if endings(path)[0] == ".tsv":
        return "\t", header
    counts = Counter(_outside("".join(header)))
    found = sorted((each for each in _SEPARATORS if counts[each]), key=lambda each: -counts[each])
    if len(found) > 1:  # `id;first, last` has two: the rows say which is meant
        sample = [*header, *lines.ahead(_SAMPLE)]
        found = [each for each in found if _even(sample, each)] or found
    return (found or [","])[0], header


def _closed(first: str, lines: _Lines) -> list[str]:
    """A line with those after it up to the end of a quoted field that is open in it."""
    for count, line in enumerate(lines.ahead(_SAMPLE) if first.count('"') % 2 else [], 1):
        if line.count('"') % 2:
            return [first, *islice(lines, count)]
    return [first]


def _outside(text: str) -> str:
    """What is not in quotes."""
    return "".join(text.split('"')[::2])


def _even(sample: list[str], separator: str) -> bool:
    """Whether the rows of a sample have as many fields as its header, but for the last, which may be cut."""
    try:
        counts = [len(fields) for fields in csv.reader(sample, delimiter=separator) if fields]
    except csv.Error:
        return False
    return all(count == counts[0] for count in counts[: -1 if len(counts) > 2 else None])


def _check_columns(columns: list[str], path: Path, line: int) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        raise UserError(
            f"{len(twice)} name{'s' if len(twice) > 1 else ''} of more than one column: "
            f"{', '.join(repr(name[:40]) for name in twice[:5])}",
            where=f"{path}:{line}",
            fix="name every column once: which one is meant cannot be known",
        )
    if not any(columns):
        raise UserError("no column has a name", where=f"{path}:{line}", fix="the first line names the columns")


def _another_number(fields: list[str], columns: list[str], path: Path, lines: _Lines) -> UserError:
    spans = f" (the row ends in line {lines.number})" if lines.number > lines.begin else ""
    if len(columns) == 1:
        fix = 'quote texts with a comma in them ("a, b"); a file of one text to a line is a .txt, without a header'
    elif len(fields) < len(columns):
        fix = "give the row all its fields, empty ones too, or take the line out"
    elif fields[-1].strip() == "" and len(fields) == len(columns) + 1:
        fix = "take the delimiter at the end of the row out, or put one at the end of the header too"
    elif any(field.lstrip() != field and field.lstrip().startswith('"') for field in fields):
        fix = "take the blank before the quotation mark out, or put one after every delimiter of the header too"
    else:
        fix = 'quote fields that hold the delimiter: "a, b"'
    return UserError(
        f"a row with another number of fields than the header: {len(fields)}, not {len(columns)}{spans}",
        where=f"{path}:{lines.begin}",
        fix=fix,
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
        f"not CSV: {what}", where=f"{path}:{lines.begin}", fix="correct that line: a quotation mark within a quoted "
        'field is written twice ("she said ""yes""")'
    )  # fmt: skip


def headless(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A name of a column that rather is a value, so that the table has no header; None where it seems to have one."""
    if list(columns) == [str(number) for number in range(len(columns))]:
        return None  # as pandas names columns that have no name
    for name in columns:
        values = [row.get(name) for row in rows]
        if _NUMBER.fullmatch(name) or len(name) > 120 or values.count(name) > 1 + len(values) // 100:
            return name
        if len(name.split()) > 5 and name[-1] in ".!?":
            return name
    return None


def header_fix(path: Path, columns: Sequence[str]) -> str:
    """What to do about a table without a header."""
    names = "text,label" if len(columns) == 2 else ",".join(f"c{number}" for number in range(1, len(columns) + 1))
    return f"put the names of the columns on top: (echo '{names}'; cat {path.name}) > named{endings(path)[0]}"
