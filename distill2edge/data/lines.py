"""Text files line by line: encodings told by their marks, lines counted, and no line longer than memory allows."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from distill2edge.errors import EnvironmentFault, UserError

LONGEST_LINE = 64_000_000  # bytes
_CHUNK = 1 << 20

# What a file is by its first bytes, where that is not what its ending says.
_MAGIC = {
    b"PK\x03\x04": ("a zip archive or an Excel file", "save it as CSV in UTF-8"),
    b"PAR1": ("Parquet", "name it .parquet"),
    b"\x1f\x8b": ("gzip", "name it .gz"),
    b"%PDF": ("PDF", "export its rows as CSV"),
    b"SQLi": ("an SQLite database", "export its rows as CSV"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it, or pack it with gzip"),
    b"BZh9": ("bzip2", "unpack it, or pack it with gzip"),
    b"\xfd7zX": ("xz", "unpack it, or pack it with gzip"),
    b"GGUF": ("a GGUF model", "give a file of rows"),
}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CARRIAGE_RETURN = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a damaged or forbidden file raises into a UserError that names it."""
    try:
        yield
    except UnicodeError as error:
        raise UserError(f"not {getattr(error, 'encoding', 'text')}: {error}", where=str(path), fix=_UTF8) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"not gzip, or cut off: {error}", where=str(path), fix="pack it again") from error
    except MemoryError as error:
        raise EnvironmentFault("it does not fit in memory", where=str(path), fix="write it as JSON Lines") from error
    except OSError as error:
        raise UserError(
            f"it cannot be read: {error.strerror or error}", where=str(path), fix="check the file and its permissions"
        ) from error


_UTF8 = "convert it to UTF-8, as with: iconv -f LATIN1 -t UTF-8 (or the encoding that it has)"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file, plain or gzip, each with its number from 1 and its end.

    UTF-8, with or without its mark; UTF-16 and UTF-32 where their mark says so. A lone carriage return ends a line too.

    Raises:
        UserError: another encoding or kind of file, NUL characters, a line over `LONGEST_LINE`; names the line.
    """
    number = 0
    with reading(path), _open(path) as file:
        encoding = _encoding(file, path)
        if encoding == "utf-8":
            lines: Iterator[str | bytes] = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
        else:
            lines = _wide_lines(file, encoding, path)
        for line in lines:
            if len(line) > LONGEST_LINE:
                raise _too_long(path, number + 1)
            text = line if isinstance(line, str) else _decoded(line, path, number + 1)
            if number == 0:
                text = text.removeprefix("\ufeff")
            if "\r" in text and "\r" in text.removesuffix("\r\n"):
                for part in _CARRIAGE_RETURN.findall(text):
                    number += 1
                    yield number, part
                continue
            number += 1
            yield number, text


def read_chunks(path: Path) -> Iterator[str]:
    """A text file in pieces, decoded as `read_lines` does.

    Raises:
        UserError: as `read_lines`.
    """
    line = 1
    with reading(path), _open(path) as file:
        encoding = _encoding(file, path)
        decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
        while True:
            raw = file.read(_CHUNK)
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                line += raw[: error.start].count(b"\n")
                raise UserError(f"not {encoding.upper()}: {error.reason}", where=f"{path}:{line}", fix=_UTF8) from error
            if "\0" in text:
                raise _nul(path, line + text[: text.index("\0")].count("\n"), text)
            line += text.count("\n")
            if text:
                yield text
            if not raw:
                return


def _open(path: Path) -> io.BufferedReader:
    opened = gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")  # noqa: SIM115
    return cast("io.BufferedReader", opened)


def _encoding(file: io.BufferedReader, path: Path) -> str:
    """What the first bytes say.

    Raises:
        UserError: that it is no text.
    """
    head = file.peek(8)[:8]
    for magic, (kind, fix) in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"it is {kind} by its content, and no text", where=str(path), fix=fix)
    return next((name for mark, name in _MARKS if head.startswith(mark) and head != mark), "utf-8")


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1} of the line ({error.reason})",
            where=f"{path}:{number}",
            fix=_UTF8,
        ) from error
    if "\0" in text:
        raise _nul(path, number, text)
    return text


def _nul(path: Path, number: int, text: str) -> UserError:
    wide = text.count("\0") > len(text) // 4
    what = "a NUL character" + (": it looks like UTF-16 without its mark" if wide else "")
    fix = "convert it: iconv -f UTF-16LE -t UTF-8" if wide else "take NUL characters out: tr -d '\\000'"
    return UserError(what, where=f"{path}:{number}", fix=fix)


def _too_long(path: Path, number: int) -> UserError:
    return UserError(
        f"a line of more than {LONGEST_LINE:,} bytes",
        where=f"{path}:{number}",
        fix="write one row to a line",
    )


def _wide_lines(file: IO[bytes], encoding: str, path: Path) -> Iterator[str]:
    """Lines of UTF-16 or UTF-32."""
    number = 0
    with io.TextIOWrapper(file, encoding=encoding, newline="") as text:
        while True:
            try:
                line = text.readline(LONGEST_LINE + 1)
            except UnicodeError as error:
                raise UserError(
                    f"not {encoding.upper()} after line {number}: {error}", where=str(path), fix=_UTF8
                ) from error
            if not line:
                return
            number += 1
            if "\0" in line:
                raise _nul(path, number, line)
            yield line
