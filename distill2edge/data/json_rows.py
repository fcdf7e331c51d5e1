"""JSON and JSON Lines to rows: values are read one by one, and what is not a row is refused with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill2edge.data.lines import read_chunks, read_lines
from distill2edge.errors import UserError

_LARGEST = 128_000_000  # characters of one JSON value
_BLANK = " \t\r\n"
_CUT = 16  # a word or number that the end of a chunk cuts is not longer


class _TwiceError(ValueError):
    """A name that an object has more than once."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON Lines file; blank lines are left out.

    Raises:
        UserError: a line that is not a JSON object, or holds what cannot be read; names the line.
    """
    for number, line in read_lines(path):
        stripped = line.strip(_BLANK)
        if stripped:
            try:
                value = _DECODER.decode(stripped)
            except (ValueError, RecursionError) as error:
                raise _not_json(error, path, number) from error
            yield _row(value, f"{path}:{number}", f"line {number}")


def read_json(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON file: a list of objects, an object with one such list in it, or objects one after the other (JSON
    Lines under this name, as hub data sets have it).

    Raises:
        UserError: as `read_json_lines`, or another shape.
    """
    scan = _Scan(path)
    start = scan.peek()
    if start == "":
        return
    if start == "[":
        yield from _list_of_rows(scan, path)
        return
    first, line = scan.value()
    if scan.peek() == "":
        yield from _rows_within(first, path)
        return
    yield _row(first, f"{path}:{line}", f"line {line}")
    while scan.peek() != "":
        value, line = scan.value()
        yield _row(value, f"{path}:{line}", f"line {line}")


def _list_of_rows(scan: _Scan, path: Path) -> Iterator[dict[str, Any]]:
    scan.skip()
    entry, end = 0, scan.peek() == "]"
    while not end:
        entry += 1
        value, line = scan.value()
        yield _row(value, f"{path}:{line}", f"entry {entry}")
        if scan.peek() not in (",", "]"):
            raise scan.error("expected ',' or ']' after an entry of the list" if scan.peek() else "the list is cut off")
        end = scan.peek() == "]"
        if not end:
            scan.skip()
    scan.skip()
    if scan.peek() != "":
        raise scan.error("something follows the list")


def _rows_within(value: Any, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one JSON value: the one list in an object, or the object itself."""
    if isinstance(value, dict):
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        if len(lists) == 1 and all(isinstance(entry, dict) for entry in lists[0][:1]):
            value = lists[0]
        elif value and all(isinstance(entry, list | dict) for entry in value.values()):
            raise UserError(
                f"an object of columns, not a list of rows ({', '.join(str(name)[:40] for name in list(value)[:6])})",
                where=str(path),
                fix='write an object to each row: [{"prompt": ..., "response": ...}, ...]; pandas does with '
                'orient="records"',
            )
    for number, entry in enumerate(value if isinstance(value, list) else [value], 1):
        yield _row(entry, str(path), f"entry {number}")


def _row(value: Any, where: str, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        what = f"{place} is not an object with fields, but {_kind(value)}"
        raise UserError(what, where=where, fix='rows look like {"prompt": ...}')
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names[type(value)]


def _not_json(error: Exception, path: Path, line: int) -> UserError:
    where = f"{path}:{line}"
    if isinstance(error, _TwiceError):
        return UserError(
            f"an object has the field {str(error)[:60]!r} more than once",
            where=where,
            fix="name every field once: which one is meant cannot be known",
        )
    if isinstance(error, RecursionError):
        return UserError("JSON that is nested too deeply", where=where, fix="remove the nested part")
    if isinstance(error, json.JSONDecodeError):
        return UserError(f"not JSON: {error.msg} (character {error.colno})", where=where, fix="correct that line")
    return UserError(
        "a number of more than 4,300 digits", where=where, fix="write it as a text, or take it out"
    )  # what `int` refuses


class _Scan:
    """A cursor over the JSON values of a file, which is read in chunks."""

    def __init__(self, path: Path) -> None:
        self._path, self._chunks = path, read_chunks(path)
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def peek(self) -> str:
        """The next character that is not blank, or nothing at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANK:
                    return self._text[self._at]
                self.skip()
            if not self._more(1):
                return ""

    def skip(self) -> None:
        """Go on by one character."""
        self._line += self._text[self._at] == "\n"
        self._at += 1

    def value(self) -> tuple[Any, int]:
        """The next value, and the line where it begins.

        Raises:
            UserError: none, or one that is broken or too large.
        """
        self.peek()
        begin = self._line
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
                # A number at the end of a chunk may go on in the next.
                if end < len(self._text) or not self._more(1):
                    self._line += self._text.count("\n", self._at, end)
                    self._at = end
                    return found, begin
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _CUT
                if not cut or not self._more(len(self._text) - self._at):
                    line = self._line + self._text.count("\n", self._at, error.pos)
                    raise _not_json(error, self._path, line) from error
            except (ValueError, RecursionError) as error:
                raise _not_json(error, self._path, begin) from error

    def error(self, what: str) -> UserError:
        """What is wrong at the present place."""
        return UserError(f"not JSON: {what}", where=f"{self._path}:{self._line}", fix="correct that line")

    def _more(self, wanted: int) -> bool:
        """Read on, at least so many characters if there are; False at the end."""
        pieces, size = [self._text[self._at :]], 0
        while size < max(wanted, 1) and not self._ended:
            chunk = next(self._chunks, "")
            self._ended = not chunk
            pieces.append(chunk)
            size += len(chunk)
        self._text, self._at = "".join(pieces), 0
        if len(self._text) > _LARGEST:
            raise UserError(
                f"one JSON value of more than {_LARGEST:,} characters",
                where=f"{self._path}:{self._line}",
                fix="write JSON Lines, or a list of rows",
            )
        return size > 0
