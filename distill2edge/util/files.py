"""Writes that are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError

_NO_ROOM = 64 << 10  # bytes
_SHORT = re.compile(r"\d+ requested and \d+ written")
_FICLONE = 0x40049409  # linux/fs.h

SCRATCH = "scratch-"
"""Begins the name of a directory in a stage's work directory that never ships."""


def check_path(path: str, where: str = "") -> None:
    """See that something can be asked of a path that a user wrote.

    Args:
        where: the place it was written at (`teacher.model`); the path itself where that is the command line.

    Raises:
        UserError: it is empty or too long, or no UTF-8, which documents and libraries need.
        EnvironmentFault: a directory on the way to it cannot be entered.
    """
    fix = "name another path"
    if not path:
        raise UserError("an empty path", fix=fix)
    try:
        path.encode()
        os.stat(path)
    except UnicodeEncodeError as error:
        raise UserError("a path that is no UTF-8", where=where or path, fix=fix) from error
    except ValueError as error:
        raise UserError(f"it cannot be a path: {error}", where=where or path, fix=fix) from error
    except PermissionError as error:
        raise EnvironmentFault(f"it cannot be reached: {error.strerror}", where=where or path, fix=fix) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError("a path that is too long", where=where or f"{path[:60]}...", fix=fix) from error


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary file beside `path`: fsynced and renamed to it when the block ends well, else removed.

    Args:
        durable: fsync it. What is worth nothing after a power cut need not wait for the disk.

    Raises:
        EnvironmentFault: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.chmod(0o644)  # mkstemp gives 0600
        temporary.replace(path)
    except Exception as error:
        if disk_full(error):
            raise disk_is_full(path.parent) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk.

    Windows opens no directory, and flushes only what is open for writing: there the system's own journal has to do.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EACCES, errno.EINVAL):
            raise
    finally:
        os.close(handle)


@contextmanager
def scratch(work: Path, name: str) -> Iterator[Path]:
    """An empty directory `work/scratch-NAME`, gone when the block ends. What a killed try left there goes first."""
    directory = Path(work) / f"{SCRATCH}{name}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def without_folders(source: str) -> str:
    """The name of a model or data source for files that ship: of a local path its last part, since folders tell about
    the machine that made the file; hub ids, addresses and `bundled:` names as they are."""
    local = source.startswith(("/", "~", ".", "\\")) or source[1:3] in (":\\", ":/")
    return re.split(r"[\\/]", source.rstrip("\\/"))[-1] if local else source


def disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full, also where a library wraps the system's error in its own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and _SHORT.fullmatch(str(error)):  # numpy's `tofile`
        return True
    return f"os error {errno.ENOSPC}" in str(error) or os.strerror(errno.ENOSPC) in str(error)


def room_is_out(path: Path) -> bool:
    """Whether the disk of a directory is full now, to the last pages."""
    return shutil.disk_usage(path).free < _NO_ROOM


def disk_is_full(where: object = None) -> EnvironmentFault:
    """The error of a full disk; `where` is the place that was written to, as far as it is known."""
    return EnvironmentFault(
        "the disk is full",
        where="" if where is None else str(where),
        fix="free room (`distill2edge store gc`), or set DISTILL2EDGE_STORE to another disk, and run the same command: "
        "it goes on from here",
    )


def clone(source: Path, target: Path) -> None:
    """A copy of a file under another name, whole or not at all: without room of its own where the file system can.

    One that is there with the same size and time is left.

    Raises:
        EnvironmentFault: the disk is full.
    """
    status = source.stat()
    with suppress(OSError):
        known = target.stat(follow_symlinks=False)
        if (known.st_size, known.st_mtime_ns, known.st_nlink) == (status.st_size, status.st_mtime_ns, 1):
            return
    with replacing(target) as temporary:
        if not _reflink(source, temporary):
            shutil.copyfile(source, temporary)
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))


def _reflink(source: Path, target: Path) -> bool:
    """Let both files share their blocks until one is written (btrfs, XFS and others on Linux)."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    with source.open("rb") as origin, target.open("wb") as copy:
        try:
            fcntl.ioctl(copy, _FICLONE, origin.fileno())
        except OSError:
            return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: two spaces, sorted by nothing, no NaN."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file in UTF-8."""
    return json.loads(path.read_text(encoding="utf-8"))


MAX_JSON = 16 << 20
"""Bytes of a JSON file from elsewhere: far above any real configuration."""


def read_object(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file that somebody else wrote.

    Args:
        limit: bytes that it may have.

    Raises:
        UserError: as `read_value`, or it is no object.
    """
    value = read_value(path, limit)
    if not isinstance(value, dict):
        what = f"a JSON object is wanted, not a {type(value).__name__}"
        raise UserError(what, where=str(path), fix="get the file again")
    return value


def read_value(path: Path, limit: int = MAX_JSON) -> Any:
    """The JSON value in a file that somebody else wrote.

    Args:
        limit: bytes that it may have.

    Raises:
        UserError: it can't be read, is too large, too deep, no UTF-8, no JSON, or holds NaN.
    """

    def no_nan(name: str) -> float:
        if name == "NaN":
            raise ValueError("it holds NaN")
        return float(name)

    fix = "get the file again"
    try:
        size = path.stat().st_size
        if size > limit:
            raise UserError(f"{size:,} bytes are too many for such a file", where=str(path), fix=fix)
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=no_nan)
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", where=str(path), fix="check its permissions") from error
    except RecursionError as error:
        raise UserError("its brackets are nested too deeply", where=str(path), fix=fix) from error
    except ValueError as error:
        raise UserError(f"not readable JSON: {error}", where=str(path), fix=fix) from error


def read_regular(path: Path, limit: int = 256 << 20) -> bytes:
    """The bytes of a file that others may have put there: never waits for a pipe, never takes all memory.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `limit` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size > limit:
        raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes, more than any of its kind", str(path))
    return path.read_bytes()
