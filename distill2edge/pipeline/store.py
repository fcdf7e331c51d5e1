"""The artifact store: content keys, manifests, atomic writes, locks.

    ROOT/STAGE/KEY/            a finished artifact, never changed
    ROOT/STAGE/KEY/manifest.json
    ROOT/partial/STAGE-KEY/    work in progress; of what a kill leaves, the next try keeps what the stage declares
    ROOT/locks/STAGE-KEY.lock  held while one process builds
    ROOT/locks/run-ID.lock     held while a run goes on: what it has touched since is in use

A finished artifact appears by one rename, so a kill at any moment leaves either the whole of it or none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.files import check_path, disk_full, disk_is_full, read_regular, sync, write_json
from distill2edge.util.machine import versions
from distill2edge.util.progress import Progress

SCHEMA_VERSION = 1
_OTHER = "name another directory with --store or DISTILL2EDGE_STORE"
_RUN = "run-"
_SETTLED_S = 60.0  # after which the lock of a run that begins is surely held
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def default_root() -> Path:
    """`$DISTILL2EDGE_STORE`, or the cache directory of the user."""
    if named := os.environ.get("DISTILL2EDGE_STORE"):
        check_path(named)
    return Path(named) if named else Path.home() / ".cache" / "distill2edge" / "store"


def make_key(stage: str, version: int, section: Any, parents: Mapping[str, str]) -> str:
    """SHA-256 over the stage's version, its canonical recipe section and its parents' keys."""
    content = {"stage": stage, "version": version, "section": section, "parents": dict(parents)}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Files:
    """What a stage declares of its directory: nothing of a killed try is part of an artifact by chance.

    A pattern under both is a part of the artifact that is written piece by piece.

    Attributes:
        holds: patterns of the files that make up the artifact (`*` within a name, `**` across folders); others are left
            out of it.
        resumes: patterns of what a killed try may leave for the next.
    """

    holds: tuple[str, ...] = ("**",)
    resumes: tuple[str, ...] = ()

    def held(self, path: str) -> bool:
        """Whether a file, by its path in the directory, is part of the artifact."""
        return _matches(path, self.holds)

    def resumed(self, path: str) -> bool:
        """Whether a file of a killed try is kept for the next."""
        return _matches(path, self.resumes)


EVERYTHING = Files()


@dataclass(frozen=True)
class Artifact:
    """A finished, checked directory of the store."""

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        """The artifact's content key."""
        return str(self.manifest["key"])

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage said about its result."""
        return dict(self.manifest["facts"])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.manifest["files"])


class Store:
    """Artifacts by stage and key. Two processes may share one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: str, key: str) -> Path:
        """Where the artifact is, or would be."""
        return self.root / stage / key[:20]

    def get(self, stage: str, key: str, warn: Callable[[str], None] = lambda line: None) -> Artifact | None:
        """The artifact, or None when it is missing or damaged (a damaged one is moved away, with a warning).

        Raises:
            EnvironmentFault: a damaged one cannot be moved away.
        """
        path = self.path(stage, key)
        if not path.is_dir():
            return None
        fault = _fault(path, key)
        if fault is None:
            with suppress(OSError):  # a store that can only be read serves as well
                (path / "manifest.json").touch()  # the time of last use, for `store gc`
            return Artifact(path, _read_manifest(path))
        warn(f"store entry {stage}/{path.name} is damaged ({fault}): it will be made again")
        try:
            self._discard(path)
        except OSError as error:
            raise unwritable(path, error) from error
        return None

    def build(
        self,
        stage: str,
        key: str,
        parents: Mapping[str, str],
        section: Any,
        seed: int,
        write: Callable[[Path], dict[str, Any]],
        progress: Progress,
        files: Files = EVERYTHING,
    ) -> Artifact:
        """Return the artifact, running `write(work)` when it is not there.

        `work` is empty but for what `files` declares of an earlier, killed try: `write` goes on from it.

        Raises:
            EnvironmentFault: the disk is full or the root cannot be written.
        """
        label = f"{stage}-{key[:20]}"
        work = self.root / "partial" / label
        try:
            for place in (self.root / "locks", self.root / "partial", self.path(stage, key).parent):
                self._clear(place)
                place.mkdir(parents=True, exist_ok=True)
            with self._locked(label, progress):
                found = self.get(stage, key, progress.warn)
                if found is not None:
                    return found
                _begin(work, files)
                start = time.monotonic()
                facts = write(work)
                _leave_out(work, files, progress)
                manifest = {
                    "schema_version": SCHEMA_VERSION,
                    "stage": stage,
                    "key": key,
                    "parents": dict(parents),
                    "section": section,
                    "seed": seed,
                    "facts": facts,
                    "wall_s": round(time.monotonic() - start, 3),
                    "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "versions": versions(),
                    "files": [_entry(work, file) for file in _files(work)],
                }
                write_json(work / "manifest.json", manifest)
                target = self.path(stage, key)
                self._clear(target)
                os.replace(work, target)
                sync(target.parent)
                return Artifact(target, manifest)
        except UserError:
            raise
        except Exception as error:
            if disk_full(error):  # libraries wrap the system's error in their own
                raise disk_is_full(self.root) from error
            if isinstance(error, OSError) and error.errno in _UNWRITABLE and _within(error, self.root):
                raise unwritable(self.root, error) from error
            raise

    def check(self) -> None:
        """Raise a UserError where a file stands at the root or above it."""
        place = next((path for path in (self.root, *self.root.parents) if path.exists()), None)
        if place is not None and not place.is_dir():
            raise UserError("a file stands where the store should be", where=str(place), fix=_OTHER)

    def prepare(self) -> None:
        """Make the root, and see that it can be written: before hours are spent.

        Raises:
            UserError: a file stands where the root, or a directory above it, should be.
            EnvironmentFault: it cannot be written, or the disk is full.
        """
        try:
            for name in ("partial", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / "locks") as probe:
                probe.write(b"?")
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError("a file stands where the store should be", where=str(self.root), fix=_OTHER) from error
        except OSError as error:
            if disk_full(error):
                raise disk_is_full(self.root) from error
            raise unwritable(self.root, error) from error

    def artifacts(self, warn: Callable[[str], None] = lambda line: None) -> Iterator[Artifact]:
        """Every finished artifact, its files unchecked; one whose manifest cannot be read is skipped with a warning."""
        for stage in _directories(self.root):
            if stage.name in ("partial", "locks"):
                continue
            for path in _directories(stage):
                try:
                    yield Artifact(path, _read_manifest(path))
                except (OSError, ValueError, RecursionError) as error:
                    warn(f"store entry {stage.name}/{path.name} is skipped, its manifest cannot be read: {error}")

    def partials(self) -> list[Path]:
        """Directories of unfinished work."""
        return _directories(self.root / "partial")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A run goes on: garbage collection leaves what it has made or reused. Nothing, where none can be noted."""
        lock = FileLock(self.root / "locks" / f"{_RUN}{uuid4().hex[:16]}.lock")
        try:
            lock.acquire()
        except OSError:  # a store that can only be read
            yield
            return
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError):
                Path(lock.lock_file).unlink()

    def used_since(self) -> float | None:
        """When the oldest run that goes on began, by the clock of the store's files; None without one."""
        began = []
        for path in (self.root / "locks").glob(f"{_RUN}*.lock"):
            with suppress(OSError):
                started = path.stat().st_mtime
                if _held(path):
                    began.append(started)
                elif time.time() - started > _SETTLED_S:  # of a run that was killed
                    path.unlink()
        return min(began, default=None)

    def is_built(self, partial: Path) -> bool:
        """Whether a process is at work in a partial directory now."""
        return _held(self.root / "locks" / f"{partial.name}.lock")

    def remove(self, path: Path) -> None:
        """Delete one artifact or partial directory of this store."""
        if self.root.resolve() not in path.resolve().parents:
            raise UserError("not in the store", where=str(path))
        try:
            self._discard(path)
        except OSError as error:
            raise unwritable(path, error) from error

    @contextmanager
    def _locked(self, label: str, progress: Progress) -> Iterator[None]:
        place = self.root / "locks" / f"{label}.lock"
        if place.is_symlink() or not (place.is_file() or not place.exists()):
            self._discard(place)
        lock = FileLock(place)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"another run is making {label}: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _clear(self, path: Path) -> None:
        """Remove what is no directory from the place of one: nothing of ours can be in it."""
        if os.path.lexists(path) and not path.is_dir():
            path.unlink()

    def _discard(self, path: Path) -> None:
        # Renamed first: a half-deleted artifact never stands under its own name.
        doomed = self.root / "partial" / f"discard-{path.name}-{time.monotonic_ns()}"
        doomed.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)  # what stays is unfinished work, which `store gc` takes


def _held(lock: Path) -> bool:
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def unwritable(path: Path, error: OSError) -> EnvironmentFault:
    """The error of a directory that the user may not write."""
    return EnvironmentFault(f"cannot be written: {error.strerror or error}", where=str(path), fix=_OTHER)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")


def _begin(work: Path, files: Files) -> None:
    """Make `work`, without anything that the stage does not go on from."""
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        work.unlink()
    work.mkdir(parents=True, exist_ok=True)
    for folder, directories, names in os.walk(work, topdown=False):
        for name in (*names, *directories):
            path = Path(folder, name)
            if path.is_symlink() or not path.is_dir():
                if path.is_symlink() or not files.resumed(path.relative_to(work).as_posix()):
                    path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()


def _leave_out(work: Path, files: Files, progress: Progress) -> None:
    """Remove what is no part of the artifact: what is kept for a next try alone, and what nobody declares."""
    for path in work.rglob("*"):
        name = path.relative_to(work).as_posix()
        if (path.is_dir() and not path.is_symlink()) or files.held(name):
            continue
        if not files.resumed(name):
            progress.warn(f"{name} is left out: its stage does not declare it")
        path.unlink()
    for folder in sorted((path for path in work.rglob("*") if path.is_dir()), reverse=True):
        if not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    # A hidden file is one that was being written (`files.replacing`).
    return not re.search(r"(?:^|/)\.", path) and any(_expression(pattern).fullmatch(path) for pattern in patterns)


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    """`*` as any characters of a name, `**` as any characters of a path."""
    parts = re.split(r"(\*\*?)", pattern)
    return re.compile("".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts), re.DOTALL)


def _within(error: OSError, root: Path) -> bool:
    return error.filename is None or str(error.filename).startswith(str(root))


def _entry(directory: Path, file: Path) -> dict[str, Any]:
    # A link to the user's own weights is followed: its target is what the key stands for.
    sync(file)
    status = file.stat()
    return {
        "path": str(file.relative_to(directory)),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": sha256_of(file),
    }


def _fault(path: Path, key: str) -> str | None:
    """What is wrong with an artifact. A file is hashed again only when its size or time has changed."""
    try:
        manifest = _read_manifest(path)
    except (OSError, ValueError, RecursionError):
        return "its manifest cannot be read"
    if manifest["schema_version"] != SCHEMA_VERSION:
        return "its manifest is of another version"
    if manifest["key"] != key:
        return "its key differs"
    for entry in manifest["files"]:
        file = path / entry["path"]
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{entry['path']} is no file"
            if status.st_size != entry["size"]:
                return f"{entry['path']} has {status.st_size} bytes instead of {entry['size']}"
            if status.st_mtime_ns != entry["mtime_ns"] and sha256_of(file) != entry["sha256"]:
                return f"{entry['path']} has changed"
        except FileNotFoundError:
            return f"{entry['path']} is missing"
        except OSError as error:
            return f"{entry['path']} cannot be read: {error.strerror}"
    return None


# Of a manifest, and of each of its files.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int, "stage": str, "key": str, "parents": dict, "facts": dict, "wall_s": (int, float),
    "created": str, "files": list,
}  # fmt: skip
_FILE_FIELDS: dict[str, type | tuple[type, ...]] = {"path": str, "size": int, "mtime_ns": int, "sha256": str}


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an artifact, with fields of the right types and paths that stay inside.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read, or is none.
    """
    manifest = json.loads(read_regular(path / "manifest.json"))
    _check_types(manifest, _FIELDS)
    for entry in manifest["files"]:
        _check_types(entry, _FILE_FIELDS)
        parts = PurePosixPath(entry["path"]).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in entry["path"]:
            raise ValueError(f"a path that leads out of it: {entry['path']!r}")
    return dict(manifest)


def _check_types(value: Any, fields: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    for name, kind in fields.items():
        if not isinstance(value.get(name), kind) or isinstance(value[name], bool):
            raise ValueError(f"{name} is missing or of another type")


def _directories(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []
