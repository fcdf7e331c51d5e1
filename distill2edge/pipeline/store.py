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
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.artifact import MANIFEST, SCHEMA_VERSION, Artifact, fault_of, file_entries, read_manifest
from distill2edge.pipeline.stage_files import EVERYTHING, Files, begin, leave_out
from distill2edge.pipeline.store_locks import StoreLocks
from distill2edge.util.files import disk_full, disk_is_full, sync, write_json
from distill2edge.util.machine import versions
from distill2edge.util.progress import Progress
from distill2edge.util.record_file import unnamed_files_in

_OTHER = "name another directory with --store or DISTILL2EDGE_STORE"
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class Store:
    """Artifacts by stage and key. Two processes may share one root.

    Attributes:
        root: its directory.
        locks: who is at work in it.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.locks = root, StoreLocks(root / "locks")

    @property
    def name(self) -> str:
        """As a user names it."""
        return str(self.root)

    def path(self, stage: str, key: str) -> Path:
        """Where the artifact is, or would be."""
        return self.root / stage / key[:20]

    def holds(self, stage: str, key: str) -> bool:
        """Whether the artifact seems to be there, at a glance: nothing of it is read."""
        return self.path(stage, key).is_dir()

    def peek(self, stage: str, key: str, warn: Callable[[str], None] = lambda line: None) -> Artifact | None:
        """As `get`, for who asks what there is and reads no file that may have to be brought here first.

        Raises:
            EnvironmentFault: as `get`.
        """
        return self.get(stage, key, warn)

    def get(self, stage: str, key: str, warn: Callable[[str], None] = lambda line: None) -> Artifact | None:
        """The artifact, or None when it is missing or damaged (a damaged one is moved away, with a warning).

        Raises:
            EnvironmentFault: a damaged one cannot be moved away.
        """
        path = self.path(stage, key)
        if not path.is_dir():
            return None
        fault = fault_of(path, key)
        if fault is None:
            with suppress(OSError):  # a store that can only be read serves as well
                (path / MANIFEST).touch()  # the time of last use, for `store gc`
            return Artifact(path, read_manifest(path))
        warn(f"store entry {stage}/{path.name} is damaged ({fault}): it will be rebuilt")
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
            self._clear_lock(self.locks.path(label))
            with self.locks.building(label, progress):
                found = self.get(stage, key, progress.warn)
                if found is not None:
                    return found
                self._begin(work, files)
                start = time.monotonic()
                with unnamed_files_in(work):
                    facts = write(work)
                leave_out(work, files, progress)
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
                    "files": file_entries(work),
                }
                write_json(work / MANIFEST, manifest)
                target = self.path(stage, key)
                self._clear(target)
                os.replace(work, target)
                sync(target.parent)
                return self._made(Artifact(target, manifest))
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

    def prepare(self, progress: Progress | None = None) -> None:
        """Make the root, and see that it can be written: before hours are spent.

        Args:
            progress: told of what the store itself does from now on, where that takes time.

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
                    yield Artifact(path, read_manifest(path))
                except (OSError, ValueError, RecursionError) as error:
                    warn(f"store entry {stage.name}/{path.name} is skipped, its manifest cannot be read: {error}")

    def partials(self) -> list[Path]:
        """Directories of unfinished work."""
        return _directories(self.root / "partial")

    def forget(self, stage: str, key: str) -> None:
        """Delete the artifact, if there is one: it is to be made again.

        Raises:
            EnvironmentFault: it cannot be deleted.
        """
        if self.path(stage, key).is_dir():
            self.remove(self.path(stage, key))

    def remove(self, path: Path) -> None:
        """Delete one artifact or partial directory of this store."""
        if self.root.resolve() not in path.resolve().parents:
            raise UserError("not in the store", where=str(path))
        try:
            self._discard(path)
        except OSError as error:
            raise unwritable(path, error) from error

    def _begin(self, work: Path, files: Files) -> None:
        """Make the directory of a stage that begins."""
        begin(work, files, self.root)

    def _made(self, artifact: Artifact) -> Artifact:
        """Take an artifact that was built, while no other process may build it."""
        return artifact

    def _clear(self, path: Path) -> None:
        """Remove what is no directory from the place of one: nothing of ours can be in it."""
        if os.path.lexists(path) and not path.is_dir():
            path.unlink()

    def _clear_lock(self, path: Path) -> None:
        """Move away what is no file from the place of a lock."""
        if path.is_symlink() or not (path.is_file() or not path.exists()):
            self._discard(path)

    def _discard(self, path: Path) -> None:
        # Renamed first: a half-deleted artifact never stands under its own name.
        doomed = self.root / "partial" / f"discard-{path.name}-{time.monotonic_ns()}"
        doomed.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)  # what stays is unfinished work, which `store gc` takes


def unwritable(path: Path, error: OSError) -> EnvironmentFault:
    """The error of a directory that the user may not write."""
    return EnvironmentFault(f"cannot be written: {error.strerror or error}", where=str(path), fix=_OTHER)


def _within(error: OSError, root: Path) -> bool:
    return error.filename is None or str(error.filename).startswith(str(root))


def _directories(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []
