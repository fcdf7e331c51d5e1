"""What was found out about files once, kept for the next process: a hash of gigabytes, a check that loads a library.

Each kind of finding has one small file in the user's cache. It may be lost or deleted at any time: then the work is
done again. What it says is taken only while every file is the very one that was looked at, by what the file system
says of it; a mistake or a refusal is never kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.util.files import replacing

CACHE_VARIABLE = "DISTILL2EDGE_CACHE"
SETTLED_S = 2.0
"""Age of a file from which its times tell one content from the next: the coarsest clock of a file system in use."""

_KEPT = 512  # findings of a kind: the oldest go
_LARGE = 1 << 20  # bytes from which a hash costs more than to look it up


def cache_directory() -> Path:
    """`$DISTILL2EDGE_CACHE`, or `~/.cache/distill2edge/bundled`."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "distill2edge" / "bundled"


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file; a large one is read once, and again when it has changed.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    found = None if size < _LARGE else remembered("hashes", [path], None, lambda: _digest(path))
    return found if isinstance(found, str) else _digest(path)


def remembered(kind: str, files: Sequence[Path], about: Any, find: Callable[[], Any]) -> Any:
    """What `find` returns, from an earlier process where it was asked of the same files.

    Args:
        kind: name of the finding.
        files: all that it depends on.
        about: what it depends on beside them, as JSON.
        find: does the work; what it raises is raised, and not kept. It returns plain values.
    """
    seen = _identity(files)
    if seen is None:
        return find()
    place = cache_directory() / f"remembered-{kind}.json"
    key = hashlib.sha256(json.dumps([seen, about], sort_keys=True).encode()).hexdigest()
    known = _read(place)
    if key in known:
        return known[key]
    value = find()
    if _identity(files) == seen:  # nothing was written meanwhile
        _write(place, key, value)
    return value


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(files: Sequence[Path]) -> list[list[Any]] | None:
    """What the file system says of each; None where one is missing, or so new that its next change may not show."""
    found: list[list[Any]] = []
    newest = (time.time() - SETTLED_S) * 1e9
    for path in files:
        try:
            status = path.stat()
        except OSError:
            return None
        if max(status.st_mtime_ns, status.st_ctime_ns) > newest:
            return None
        found.append([str(path.absolute()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
                      status.st_ctime_ns])  # fmt: skip
    return found


def _read(place: Path) -> dict[str, Any]:
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _write(place: Path, key: str, value: Any) -> None:
    known = {**_read(place), key: value}  # another process may have written since
    kept = dict(list(known.items())[-_KEPT:])
    # A cache that cannot be written: it is found out again next time.
    with suppress(OSError, UserError), replacing(place, durable=False) as temporary:
        temporary.write_text(json.dumps(kept), encoding="utf-8")
