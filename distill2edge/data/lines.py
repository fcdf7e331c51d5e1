"""Text files line by line: encodings known by their marks, lines counted, and no line longer than memory allows."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.file_kinds import by_content, endings

LONGEST_LINE = 64_000_000  # bytes
_CHUNK = 1 << 20

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
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _not_packed(path, error) from error
    except MemoryError as error:
        raise EnvironmentFault("it does not fit in memory", where=str(path), fix="write it as JSON Lines") from error
    except OSError as error:
        if not error.errno and endings(path)[1]:  # what the unpackers raise
            raise _not_packed(path, error) from error
        raise UserError(
            f"it cannot be read: {error.strerror or error}", where=str(path), fix="check the file and its permissions"
        ) from error


def _not_packed(path: Path, error: Exception) -> UserError:
    kind = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}.get(endings(path)[1], endings(path)[1].lstrip("."))
    return UserError(f"not {kind}, or cut off: {str(error)[:200]}", where=str(path), fix="compress it again")


_UTF8 = "convert it to UTF-8, as with: iconv -f LATIN1 -t UTF-8 (or the encoding that it has)"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file, plain or packed, each with its number from 1 and its end.

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
    packing = endings(path)[1]
    if packing == ".zip":
        return _in_zip(path)
    if packing == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    opened = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(packing, open)(path, "rb")
    return cast("io.BufferedReader", opened)


def _in_zip(path: Path) -> io.BufferedReader:
    """The one file in a zip archive.

    Raises:
        UserError: more than one, none, or one that is encrypted.
    """
    archive = zipfile.ZipFile(path)
    found = _members(archive)
    if len(found) != 1:
        listed = ", ".join(entry.filename[:60] for entry in found[:5]) + (", ..." if len(found) > 5 else "")
        what = f"{len(found)} files in one archive ({listed})" if found else "an archive without a file"
        raise UserError(what, where=str(path), fix=f"unpack it, and name the file: unzip {path.name}")
    if found[0].flag_bits & 1:
        raise UserError("an archive with a password", where=str(path), fix="unpack it, and name the file")
    return io.BufferedReader(archive.open(found[0]))


def name_in_zip(path: Path) -> str | None:
    """The name of the one file in a zip archive; None where it has another number of files, or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = _members(archive)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return None
    return found[0].filename if len(found) == 1 else None


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in an archive, without what file managers add."""
    return [
        entry
        for entry in archive.infolist()
        if not entry.is_dir() and "__MACOSX" not in entry.filename and not Path(entry.filename).name.startswith(".")
    ]


def _encoding(file: io.BufferedReader, path: Path) -> str:
    """What the first bytes say.

    Raises:
        UserError: that it is not text.
    """
    head = file.peek(8)[:8]
    if (told := by_content(head)) is not None:
        raise UserError(f"by its content it is {told[0]}, not text", where=str(path), fix=told[1])
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
