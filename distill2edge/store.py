"""The artifact store: content keys, manifests, atomic writes, locks.

    ROOT/STAGE/KEY/            a finished artifact, never changed
    ROOT/STAGE/KEY/manifest.json
    ROOT/partial/STAGE-KEY/    work in progress; survives a kill, and the next try goes on from it
    ROOT/locks/STAGE-KEY.lock  held while one process builds

A finished artifact appears by one rename, so a kill at any moment leaves either the whole of it or none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.files import write_json
from distill2edge.machine import versions
from distill2edge.progress import Progress

SCHEMA_VERSION = 1


def default_root() -> Path:
    """`$DISTILL2EDGE_STORE`, or the cache directory of the user."""
    named = os.environ.get("DISTILL2EDGE_STORE")
    return Path(named) if named else Path.home() / ".cache" / "distill2edge" / "store"


def make_key(stage: str, version: int, section: Any, parents: Mapping[str, str]) -> str:
    """SHA-256 over the stage's version, its canonical recipe section and its parents' keys."""
    content = {"stage": stage, "version": version, "section": section, "parents": dict(parents)}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
        """The artifact, or None when it is missing or damaged (a damaged one is moved away, with a warning)."""
        path = self.path(stage, key)
        if not path.is_dir():
            return None
        fault = _fault(path, key)
        if fault is None:
            (path / "manifest.json").touch()  # the time of last use, for `store gc`
            return Artifact(path, _read_manifest(path))
        warn(f"store entry {stage}/{path.name} is damaged ({fault}): it will be made again")
        self._discard(path)
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
    ) -> Artifact:
        """Return the artifact, running `write(work)` when it is not there.

        `work` may hold what an earlier, killed try of the same key has left: `write` goes on from it.

        Raises:
            EnvironmentFault: the disk is full or the root cannot be written.
        """
        label = f"{stage}-{key[:20]}"
        work = self.root / "partial" / label
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            with self._locked(label, progress):
                found = self.get(stage, key, progress.warn)
                if found is not None:
                    return found
                work.mkdir(parents=True, exist_ok=True)
                start = time.monotonic()
                facts = write(work)
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
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(work, target)
                _sync_directory(target.parent)
                return Artifact(target, manifest)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise EnvironmentFault(
                    "the disk is full",
                    where=str(self.root),
                    fix="free room (`distill2edge store gc`) or set DISTILL2EDGE_STORE; the next run goes on from here",
                ) from error
            if error.errno in (errno.EACCES, errno.EROFS):
                raise EnvironmentFault(
                    "the store cannot be written",
                    where=str(self.root),
                    fix="set DISTILL2EDGE_STORE to another directory",
                ) from error
            raise

    def artifacts(self) -> Iterator[Artifact]:
        """Every finished artifact, whatever its state; damaged ones are left out."""
        for manifest in sorted(self.root.glob("*/*/manifest.json")):
            if manifest.parent.parent.name != "partial":
                try:
                    yield Artifact(manifest.parent, _read_manifest(manifest.parent))
                except (OSError, ValueError):
                    continue

    def partials(self) -> list[Path]:
        """Directories of unfinished work."""
        return sorted(path for path in (self.root / "partial").glob("*") if path.is_dir())

    def remove(self, path: Path) -> None:
        """Delete one artifact or partial directory of this store."""
        if self.root.resolve() not in path.resolve().parents:
            raise UserError("not in the store", where=str(path))
        self._discard(path)

    @contextmanager
    def _locked(self, label: str, progress: Progress) -> Iterator[None]:
        lock = FileLock(self.root / "locks" / f"{label}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"another run is making {label}: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _discard(self, path: Path) -> None:
        # Renamed first: a half-deleted artifact never stands under its own name.
        doomed = self.root / "partial" / f"discard-{path.name}-{time.monotonic_ns()}"
        doomed.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")


def _entry(directory: Path, file: Path) -> dict[str, Any]:
    # A link to the user's own weights is followed: its target is what the key stands for.
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
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
    except (OSError, ValueError):
        return "its manifest cannot be read"
    if manifest.get("schema_version") != SCHEMA_VERSION:
        return "its manifest is of another version"
    if manifest.get("key") != key:
        return "its key differs"
    for entry in manifest["files"]:
        file = path / entry["path"]
        if not file.is_file():
            return f"{entry['path']} is missing"
        status = file.stat()
        if status.st_size != entry["size"]:
            return f"{entry['path']} has {status.st_size} bytes instead of {entry['size']}"
        if status.st_mtime_ns != entry["mtime_ns"] and sha256_of(file) != entry["sha256"]:
            return f"{entry['path']} has changed"
    return None


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError("not a mapping")
    return manifest


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
