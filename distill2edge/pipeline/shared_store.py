"""A store that machines share: objects at an address, and a store in a directory here that the stages work in.

Models are mapped into memory and read by other processes, so an artifact is used from files: what another machine has
published is brought to the directory, and what is built there is published. A run that finds everything in the
directory asks no server. One that has work to do looks first (`prepare`), and from then on goes by what is published.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from distill2edge.errors import EnvironmentFault
from distill2edge.pipeline.artifact import Artifact, read_manifest
from distill2edge.pipeline.leases import LEASE_S, Leases
from distill2edge.pipeline.object_storage import ObjectStorage, Storage, check_storage, checked_address, server_of
from distill2edge.pipeline.published import Publications, Published, identity
from distill2edge.pipeline.shared_answers import SharedAnswers, pull
from distill2edge.pipeline.stage_files import EVERYTHING, Files
from distill2edge.pipeline.store import Store, unwritable
from distill2edge.pipeline.store_locks import StoreLocks
from distill2edge.util.files import disk_full, disk_is_full, write_text
from distill2edge.util.progress import Progress, SilentProgress
from distill2edge.util.quantities import readable_bytes
from distill2edge.util.remembered import CACHE_VARIABLE

_MARKS = "published"
_TRIES = 3  # of publishing, when others publish and withdraw at the same time


def directory_of(url: str) -> Path:
    """Where this machine works on a shared store: `$DISTILL2EDGE_CACHE`, or the user's cache directory, by address."""
    base = os.environ.get(CACHE_VARIABLE)
    name = hashlib.sha256(f"{server_of(url)} {url}".encode()).hexdigest()[:16]
    return (Path(base) if base else Path.home() / ".cache" / "distill2edge") / f"shared-{name}"


class SharedStore(Store):
    """As `Store`, whose artifacts are those of an address.

    Args:
        url: `s3://BUCKET/PREFIX`.
        root: the directory here; by default `directory_of`.
        lasts: of a lease, in seconds.
        storage: in place of the one at the address.

    Raises:
        UserError, EnvironmentFault: as `checked_address`.
    """

    def __init__(
        self, url: str, root: Path | None = None, *, lasts: float = LEASE_S, storage: Storage | None = None
    ) -> None:
        self.url = checked_address(url)
        super().__init__(root or directory_of(self.url))
        self._here = StoreLocks(self.root / "locks")
        self.locks = SharedLocks(
            self.root / "locks", lambda: self.leases if self._prepared else None, lambda: self._push()
        )
        self._lasts, self._prepared = lasts, False
        self._answers: SharedAnswers | None = None
        self._warned: set[str] = set()
        self._progress: Progress = SilentProgress()
        if storage is not None:
            self.__dict__["storage"] = storage

    @property
    def name(self) -> str:
        """As `Store.name`: the address."""
        return self.url

    @cached_property
    def storage(self) -> Storage:
        """The objects at the address, from the first moment that one is asked for."""
        return ObjectStorage(self.url)

    @cached_property
    def publications(self) -> Publications:
        """What is published."""
        return Publications(self.storage)

    @cached_property
    def leases(self) -> Leases:
        """Who is at work."""
        return Leases(self.storage, self.owner, self._lasts)

    @cached_property
    def owner(self) -> str:
        """A name for the directory here, on this machine."""
        file = self.root / "locks" / "owner"
        with suppress(OSError):
            if not file.is_file():
                write_text(file, uuid4().hex)
            return f"{socket.gethostname()}-{file.read_text(encoding='utf-8')[:32]}"
        return uuid4().hex

    # --- as Store -------------------------------------------------------------------

    def prepare(self, progress: Progress | None = None) -> None:
        """As `Store.prepare`; and see that the address can be used, by trying.

        Raises:
            UserError, EnvironmentFault: as `Store.prepare`; or bucket, credentials, network or server are at fault.
        """
        super().prepare(progress)
        check_storage(self.storage)
        self._prepared, self._progress = True, progress or self._progress

    def holds(self, stage: str, key: str) -> bool:
        """As `Store.holds`: it is here, and was published or fetched."""
        return super().holds(stage, key) and self._mark(stage, key).is_file()

    def peek(self, stage: str, key: str, warn: Callable[[str], None] = lambda line: None) -> Artifact | None:
        """As `Store.peek`: of what is only published the manifest alone; its path is then where it will be."""
        here = super().get(stage, key, warn)
        if here is not None:
            return here
        found = self.publications.find(stage, key)
        if found.fault:
            self._warn(warn, stage, key, found.fault)
        takes = found.manifest is not None and not found.fault
        return Artifact(self.path(stage, key), found.manifest) if takes and found.manifest else None

    def get(self, stage: str, key: str, warn: Callable[[str], None] = lambda line: None) -> Artifact | None:
        """As `Store.get`: from the directory, or brought there; for a run with work to do, what is published counts.

        Raises:
            EnvironmentFault: as `Store.get`, or the server is at fault.
        """
        here = super().get(stage, key, warn)
        if here is not None and not self._prepared:
            return here
        return self._agreed(stage, key, here, warn)

    def forget(self, stage: str, key: str) -> None:
        """As `Store.forget`, for every machine.

        Raises:
            EnvironmentFault: as `Store.forget`, or the server is at fault.
        """
        found = self.publications.find(stage, key)
        if found.manifest is not None:
            self.publications.withdraw(stage, key, found, identity(found.manifest))
        self._mark(stage, key).unlink(missing_ok=True)
        super().forget(stage, key)

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
        """As `Store.build`, by one machine at a time; what was built is published before it is returned.

        Raises:
            UserError, EnvironmentFault: as `prepare`; what was built stays here, and is published by the next run.
        """
        if not self._prepared:
            self.prepare(progress)
        return super().build(stage, key, parents, section, seed, write, progress, files)

    def _begin(self, work: Path, files: Files) -> None:
        """As `Store`, after the shared files of other machines were brought here."""
        pull(self.storage, files.shares, self.root)
        super()._begin(work, files)
        machine = hashlib.sha256(self.owner.encode()).hexdigest()[:16]
        self._answers = SharedAnswers(self.storage, work.name, machine, work, files.shares)

    def _made(self, artifact: Artifact) -> Artifact:
        """Publish what was built; where another machine was faster, what that one has published."""
        stage, key = str(artifact.manifest["stage"]), artifact.key
        agreed = self._agreed(stage, key, artifact, self._progress.warn)
        answers, self._answers = self._answers, None
        if answers is not None:
            answers.drop()
        return artifact if agreed is None else agreed

    def _push(self) -> None:
        if self._answers is not None:
            self._answers.push()

    # --- one content for all --------------------------------------------------------

    def _agreed(self, stage: str, key: str, here: Artifact | None, warn: Callable[[str], None]) -> Artifact | None:
        """The artifact that all machines have: the published one, or the one here, published now; None without any."""
        for _ in range(_TRIES):
            found = self.publications.find(stage, key)
            if found.fault:
                self._warn(warn, stage, key, found.fault)
            elif found.manifest is not None:
                if here is not None and identity(here.manifest) == identity(found.manifest):
                    self._note(stage, key)
                    return here
                fault = self._fetch(stage, key, found)
                if not fault:
                    self._note(stage, key)
                    return Artifact(self.path(stage, key), read_manifest(self.path(stage, key)))
                self._warn(warn, stage, key, fault)
                if not self._prepared:
                    return here
                self.publications.withdraw(stage, key, found)
                continue
            if here is not None and identity(here.manifest) == found.withdrawn:
                super().forget(stage, key)
                return None
            if here is None or not self._prepared:
                return here
            if self.publications.publish(here, found.number + 1, self._progress):
                self._note(stage, key)
                return here
            self._progress.say(f"another machine has published {stage}/{key[:20]} first: its artifact is taken")
        what = f"{stage}/{key[:20]} is published and withdrawn again and again by other machines"
        raise EnvironmentFault(what, where=self.url, fix="end the runs with --force, and run the same command again")

    def _fetch(self, stage: str, key: str, found: Published) -> str:
        """Bring a published artifact to the directory; what is wrong with it, if anything is."""
        size = sum(int(entry["size"]) for entry in found.manifest["files"]) if found.manifest else 0
        target = self.path(stage, key)
        work = self.root / "partial" / f"fetch-{stage}-{key[:20]}-{found.folder[:8]}"
        try:
            for place in (self.root / "locks", work, target.parent):
                place.mkdir(parents=True, exist_ok=True)
            self._check_room(size - _bytes(work))
            with self._here.building(work.name, self._progress):
                if not (found.manifest and self._is_here(target, found.manifest)):
                    work.mkdir(exist_ok=True)
                    if fault := self.publications.fetch(stage, key, found, work, self._progress):
                        self._discard(work)
                        return fault
                    if target.is_dir():
                        self._discard(target)
                    self._clear(target)
                    os.replace(work, target)
        except OSError as error:
            if disk_full(error):
                raise disk_is_full(self.root) from error
            raise unwritable(self.root, error) from error
        return ""

    def _check_room(self, size: int) -> None:
        """See that so many bytes have room here: before any is brought."""
        free = shutil.disk_usage(self.root).free
        if size > free:
            what = f"{readable_bytes(size)} are to be fetched, and {readable_bytes(free)} are free"
            fix = "free room, or let DISTILL2EDGE_CACHE name a directory on another disk"
            raise EnvironmentFault(what, where=str(self.root), fix=fix)

    def _is_here(self, target: Path, manifest: dict[str, Any]) -> bool:
        with suppress(OSError, ValueError, RecursionError):  # brought by another process meanwhile
            return identity(read_manifest(target)) == identity(manifest)
        return False

    def _warn(self, warn: Callable[[str], None], stage: str, key: str, fault: str) -> None:
        line = f"{self.url}: {stage}/{key[:20]} is damaged ({fault}): it will be made again and replaced"
        if line not in self._warned:  # a run looks at what there is, and later takes it
            self._warned.add(line)
            warn(line)

    # --- what is noted here ---------------------------------------------------------

    def _mark(self, stage: str, key: str) -> Path:
        return self.root / _MARKS / f"{stage}-{key[:20]}"

    def _note(self, stage: str, key: str) -> None:
        """Note that the artifact here is the published one: the next run need not ask."""
        with suppress(OSError):
            mark = self._mark(stage, key)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


class SharedLocks(StoreLocks):
    """The locks of the directory here, and the leases of the address over them.

    Args:
        directory: where the locks lie.
        leases: those of the address, once somebody goes by what is published; None before.
        renewed: called with each renewal of what is built.
    """

    def __init__(self, directory: Path, leases: Callable[[], Leases | None], renewed: Callable[[], None]) -> None:
        super().__init__(directory)
        self._leases, self._renewed = leases, renewed

    @contextmanager
    def in_use(self, progress: Progress) -> Iterator[None]:
        """As `StoreLocks.in_use`, for all machines."""
        leases = self._leases()
        with super().in_use(progress), nullcontext() if leases is None else leases.in_use(progress):
            yield

    @contextmanager
    def building(self, label: str, progress: Progress) -> Iterator[None]:
        """As `StoreLocks.building`, for all machines."""
        leases = self._leases()
        lease = nullcontext() if leases is None else leases.building(label, progress, self._renewed)
        with super().building(label, progress), lease:
            yield
