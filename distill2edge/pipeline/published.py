"""The artifacts of a shared store, as objects.

    artifacts/STAGE/KEY/records/000000000001   what is published: manifest and folder of the files
    artifacts/STAGE/KEY/FOLDER/PATH            its files, written before the record that names their folder
    artifacts/STAGE/KEY/used                   when a machine last took it, for `store gc`

The newest record counts, and a record is created once, so of two machines that publish one thing one does, and the
other takes what that one has published. A record may also say that what was published before is withdrawn.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from distill2edge.errors import EnvironmentFault
from distill2edge.pipeline.artifact import MANIFEST, SCHEMA_VERSION, Artifact, checked_manifest, sha256_of
from distill2edge.pipeline.object_storage import Entry, Moved, Storage
from distill2edge.pipeline.series import Series, numbers_in
from distill2edge.util.files import sync, write_json
from distill2edge.util.progress import Progress, SilentProgress

ARTIFACTS = "artifacts"
_RECORDS, _USED = "records", "used"
_FOLDER = re.compile(r"[0-9a-f]{32}")
_AT_ONCE = 4  # files under way
_LARGE = 64 << 20  # bytes of a file that goes alone, as its parts are in memory
_USED_EVERY = timedelta(days=1)

Manifest = dict[str, Any]
Entries = Mapping[str, Any]
"""What a manifest says of a file."""


def identity(manifest: Manifest) -> str:
    """What tells one artifact from another of the same key: all that its manifest says but the times of files here."""
    text = json.dumps(_without_times(manifest), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_times(manifest: Manifest) -> Manifest:
    return {**manifest, "files": [{**entry, "mtime_ns": 0} for entry in manifest["files"]]}


@dataclass(frozen=True)
class Published:
    """What the newest record of an artifact says.

    Attributes:
        number: of the record; 0 without one.
        manifest: of the artifact; None where there is none to take.
        folder: of its files, from the artifact's own.
        fault: why it cannot be taken; empty where it can, or nothing is published.
        withdrawn: `identity` of an artifact that is to be made again, whoever has it.
        used: when a machine last took it, by the server's clock.
    """

    number: int = 0
    manifest: Manifest | None = None
    folder: str = ""
    fault: str = ""
    withdrawn: str = ""
    used: datetime | None = None


class Publications:
    """The artifacts of a storage.

    Args:
        storage: the storage.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def find(self, stage: str, key: str) -> Published:
        """What is published under a key, with all its files, as far as a listing tells."""
        place = _place(stage, key)
        found = self._storage.entries(place)
        newest = max(numbers_in(name for name in found if name.startswith(f"{_RECORDS}/")), default=0)
        return self._read(place, found, newest, key) if newest else Published()

    def _read(self, place: str, found: Mapping[str, Entry], newest: int, key: str | None) -> Published:
        used = max((found[name].modified for name in found if name == _USED or name.startswith(_RECORDS)), default=None)
        try:
            record = json.loads(Series(self._storage, f"{place}/{_RECORDS}").read(newest) or b"")
            if "withdrawn" in record:
                return Published(newest, withdrawn=str(record["withdrawn"]), used=used)
            manifest, folder = checked_manifest(record["manifest"]), str(record["folder"])
            if not _FOLDER.fullmatch(folder):
                raise ValueError("a folder that is none")
        except (ValueError, TypeError, KeyError, RecursionError):
            return Published(newest, fault="its record cannot be read", used=used)
        if manifest["schema_version"] != SCHEMA_VERSION:
            return Published(newest, fault="its manifest is of another version", used=used)
        if key is not None and manifest["key"] != key:
            return Published(newest, fault="its key differs", used=used)
        return Published(newest, manifest, folder, _lacking(manifest, folder, found), used=used)

    # --- writing --------------------------------------------------------------------

    def publish(self, artifact: Artifact, number: int, progress: Progress) -> bool:
        """Write all files of an artifact, and then the record that names them; False where another was first.

        Args:
            number: of the record: one more than that which was found.

        Raises:
            EnvironmentFault: what was written is not there: the record was not written.
        """
        manifest, folder = artifact.manifest, uuid4().hex
        place = _place(manifest["stage"], artifact.key)

        def upload(entry: Entries, moved: Moved) -> None:
            self._storage.upload(artifact.path / entry["path"], f"{place}/{folder}/{entry['path']}", moved)

        _each(upload, manifest["files"], f"publishing {manifest['stage']}, MB", progress)
        if lacking := _lacking(manifest, folder, self._storage.entries(place)):
            raise self._lost(f"{place}/{folder}", lacking)
        series = Series(self._storage, f"{place}/{_RECORDS}")
        record = json.dumps({"folder": folder, "manifest": _without_times(manifest)}).encode()
        if not series.append(number, record):
            self._delete(f"{place}/{folder}", [str(entry["path"]) for entry in manifest["files"]])
            return False
        if series.read(number) != record:
            raise self._lost(series.place(number), "it is not there as it was written")
        return True

    def withdraw(self, stage: str, key: str, found: Published, gone: str = "") -> None:
        """Let what was found count no longer.

        Args:
            gone: `identity` of the artifact that nobody who has it here may publish again.
        """
        words = json.dumps({"withdrawn": gone}).encode()
        Series(self._storage, f"{_place(stage, key)}/{_RECORDS}").append(found.number + 1, words)

    def _lost(self, where: str, what: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"the server lost what it had taken: {what}", where=f"{self._storage.url}/{where}",
            fix="the artifact is finished on this machine: run the same command again to publish it; if it is lost "
            "again, use another server or a directory",
        )  # fmt: skip

    # --- reading --------------------------------------------------------------------

    def fetch(self, stage: str, key: str, found: Published, work: Path, progress: Progress) -> str:
        """Bring the files of a published artifact to a directory, with a manifest; what is there already stays.

        Returns:
            what is wrong with them; empty where all have the bytes that the manifest says.
        """
        manifest = found.manifest
        assert manifest is not None
        place = f"{_place(stage, key)}/{found.folder}"
        faults: list[str] = []

        def download(entry: Entries, moved: Moved) -> None:
            file = work / entry["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(2):  # once more, in case that the network is at fault
                if _is(file, entry):
                    return
                if not self._storage.download(f"{place}/{entry['path']}", file, moved):
                    faults.append(f"{entry['path']} is missing")
                    return
            if not _is(file, entry):
                faults.append(f"{entry['path']} has changed")

        _each(download, manifest["files"], f"fetching {stage}, MB", progress)
        if faults:
            return faults[0]
        for entry in manifest["files"]:
            sync(work / entry["path"])
        files = [{**entry, "mtime_ns": (work / entry["path"]).stat().st_mtime_ns} for entry in manifest["files"]]
        write_json(work / MANIFEST, {**manifest, "files": files})
        with suppress(EnvironmentFault):  # who may only read takes it as well
            self._touch(stage, key, found)
        return ""

    def _touch(self, stage: str, key: str, found: Published) -> None:
        now = datetime.now().astimezone()
        if found.used is None or now - found.used > _USED_EVERY:
            self._storage.write(f"{_place(stage, key)}/{_USED}", b"")

    # --- housekeeping ---------------------------------------------------------------

    def all(self) -> Iterator[tuple[str, Published, dict[str, Entry]]]:
        """Every artifact, sound or not: its place, what is published there, and all of its objects by their names."""
        places: dict[str, dict[str, Entry]] = {}
        for name, entry in self._storage.entries(ARTIFACTS).items():
            stage, _, rest = name.partition("/")
            key, _, inside = rest.partition("/")
            places.setdefault(f"{ARTIFACTS}/{stage}/{key}", {})[inside] = entry
        for place, objects in sorted(places.items()):
            newest = max(numbers_in(name for name in objects if name.startswith(f"{_RECORDS}/")), default=0)
            found = self._read(place, objects, newest, None) if newest else Published()
            yield place, found, objects

    def remove(self, place: str, names: list[str]) -> None:
        """Delete objects of an artifact, its records first: nobody begins to take what is half gone."""
        self._delete(place, [name for name in names if name.startswith(f"{_RECORDS}/")])
        self._delete(place, [name for name in names if not name.startswith(f"{_RECORDS}/")])

    def _delete(self, place: str, names: list[str]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda name: self._storage.delete(f"{place}/{name}"), names))


def _place(stage: str, key: str) -> str:
    return f"{ARTIFACTS}/{stage}/{key[:20]}"


def _lacking(manifest: Manifest, folder: str, found: Mapping[str, Entry]) -> str:
    """The first file of a manifest that a listing has not, or with another size; empty without one."""
    for entry in manifest["files"]:
        there = found.get(f"{folder}/{entry['path']}")
        if there is None:
            return f"{entry['path']} is missing"
        if there.size != entry["size"]:
            return f"{entry['path']} has {there.size} bytes instead of {entry['size']}"
    return ""


def _is(file: Path, entry: Mapping[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == entry["size"] and sha256_of(file) == entry["sha256"]


def _each(work: Callable[[Entries, Moved], None], files: list[Entries], title: str, progress: Progress) -> None:
    """Do a piece of work for each file, a few at once; progress is in megabytes, from the first one on."""
    sizes = [int(entry["size"]) for entry in files]
    total, told, moved, large = sum(sizes) // 1_000_000, 0, [0], threading.Lock()
    progress = progress if total else SilentProgress()

    def count(size: int) -> None:
        moved[0] += size

    def do(entry: Entries, size: int) -> None:
        with large if size > _LARGE else nullcontext():
            work(entry, count)

    with progress.task(title, total) as task, ThreadPoolExecutor(_AT_ONCE) as pool:
        left = {pool.submit(do, entry, size) for entry, size in zip(files, sizes, strict=True)}
        try:
            while left:
                done, left = wait(left, 1.0, FIRST_COMPLETED)
                for each in done:
                    each.result()
                now = min(moved[0] // 1_000_000, total - 1) if left else total
                if now > told:
                    task.advance(now - told)
                    told = now
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
