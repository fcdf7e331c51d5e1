"""Objects by name in a bucket, through fsspec: the few operations that a shared store needs.

What others may rely on appears by `create` alone: the server itself refuses a second object of the same name
(`If-None-Match: *`; on Google's, `ifGenerationMatch=0`). Protocols whose fsspec class looks first and writes then are
not taken.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.storage_faults import already_there, fault_of_storage, in_conflict

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/{1,2}(?P<bucket>[^/]*)(?:/(?P<prefix>.*))?", re.DOTALL)
PROBES = "probes"
_CONFLICTS = 5  # of two creations at the same moment, after which something else is wrong
T = TypeVar("T")


@dataclass(frozen=True)
class _Kind:
    """A protocol: the module of its fsspec class, what to install for it, and the options that it is opened with."""

    module: str
    install: str
    options: Mapping[str, Any]


_S3 = _Kind(
    "s3fs",
    "pip install 'distill2edge[s3]'",
    {
        "max_concurrency": 2,  # parts of 50 MB in memory, of each file that is under way
        "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3}},
    },
)
_KINDS = {"s3": _S3, "gs": _Kind("gcsfs", "pip install gcsfs", {}), "memory": _Kind("fsspec", "", {})}


@dataclass(frozen=True)
class Entry:
    """An object of a listing: bytes, and when it was written by the server's clock."""

    size: int
    modified: datetime


Moved = Callable[[int], None]


def nobody(size: int) -> None:
    """Told of bytes that nobody counts."""


class Storage(Protocol):
    """Objects by their names under one address.

    Every method raises EnvironmentFault where the server cannot be reached, refuses, or has no such bucket.

    Attributes:
        url: its address.
    """

    url: str

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that is not there; False where it is, and then it stays as it is."""

    def write(self, name: str, data: bytes) -> None:
        """Write an object, or another in its place."""

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None where there is none."""

    def entries(self, folder: str) -> dict[str, Entry]:
        """All objects below a folder, by their names in it, as they are now; of everything with an empty one."""

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is none."""

    def upload(self, path: Path, name: str, moved: Moved = nobody) -> None:
        """Write an object from a file.

        Args:
            moved: told of bytes as they go, in any thread.
        """

    def download(self, name: str, path: Path, moved: Moved = nobody) -> bool:
        """Write a file from an object; False where there is none."""


def is_address(place: object) -> bool:
    """Whether a place of a store is an address and no directory."""
    found = _URL.fullmatch(str(place))
    # A pathlib.Path has made one slash of two.
    return found is not None and ("://" in str(place) or (isinstance(place, Path) and found["protocol"] in _KINDS))


def checked_address(place: object) -> str:
    """An address in its one form: `s3://BUCKET/PREFIX`.

    Raises:
        UserError: a protocol that cannot carry a store, no bucket, credentials in it, or names that are none.
        EnvironmentFault: the package for it is not installed.
    """
    found = _URL.fullmatch(str(place))
    kind = None if found is None else _KINDS.get(found["protocol"])
    if found is None or kind is None:
        what = "a shared store cannot lie there: only addresses with s3:// or gs:// are known to create an object once"
        raise UserError(what, where=_without_secrets(str(place)), fix="write s3://BUCKET/PREFIX, or a directory's path")
    bucket, parts = found["bucket"], [part for part in (found["prefix"] or "").split("/") if part]
    if not bucket or re.search(r"[^A-Za-z0-9._-]", bucket) or ".." in parts or re.search(r"[?#*\[\]\\\s]", str(place)):
        what = "not the address of a bucket"
        if "@" in bucket or ":" in bucket:
            what = "credentials do not belong into an address"
        fix = "write s3://BUCKET/PREFIX; keys and server are read from AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL"
        raise UserError(what, where=_without_secrets(str(place)), fix=fix)
    if importlib.util.find_spec(kind.module) is None:
        what = f"{found['protocol']}:// needs the package {kind.module}, which is not installed"
        raise EnvironmentFault(what, where=str(place), fix=kind.install)
    return f"{found['protocol']}://{'/'.join([bucket, *parts])}"


def server_of(url: str) -> str:
    """Which server an address is at, as far as the environment says it: two may have buckets of one name."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if url.startswith("s3:") else ()
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _without_secrets(place: str) -> str:
    return re.sub(r"//.*@", "//...@", place)


class ObjectStorage:
    """As `Storage`, by fsspec.

    Args:
        url: as `checked_address` gives it.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        protocol, self._root = url.split("://")
        self.url = url
        self._call(lambda: self._open(fsspec, protocol))

    def _open(self, fsspec: Any, protocol: str) -> None:
        options = {**_KINDS[protocol].options, "use_listings_cache": False, "skip_instance_cache": protocol != "memory"}
        self._files = fsspec.filesystem(protocol, **options)

    def create(self, name: str, data: bytes) -> bool:
        """As `Storage.create`."""
        path = self._path(name)
        for tries in range(_CONFLICTS):
            try:
                self._files.pipe_file(path, data, mode="create")
                return True
            except Exception as error:
                if already_there(error):
                    # A request that was sent again, as its answer was lost, finds its own object.
                    return self.read(name) == data
                if not in_conflict(error) or tries + 1 == _CONFLICTS:
                    raise fault_of_storage(error, self.url) from error
                time.sleep(0.2 * 2**tries)
        return False

    def write(self, name: str, data: bytes) -> None:
        """As `Storage.write`."""
        self._call(lambda: self._files.pipe_file(self._path(name), data))

    def read(self, name: str) -> bytes | None:
        """As `Storage.read`."""
        with suppress(FileNotFoundError):
            return bytes(self._call(lambda: self._files.cat_file(self._path(name))))
        return None

    def entries(self, folder: str) -> dict[str, Entry]:
        """As `Storage.entries`."""
        root = self._path(folder)
        found: Mapping[str, Any] = {}
        with suppress(FileNotFoundError):
            found = self._call(lambda: self._files.find(root, detail=True))
        inside = {PurePosixPath(path.lstrip("/")): info for path, info in found.items()}
        return {
            path.relative_to(root.lstrip("/")).as_posix(): Entry(int(info["size"]), _modified(info))
            for path, info in inside.items()
            if info.get("type") == "file" and path != PurePosixPath(root.lstrip("/"))
        }

    def delete(self, name: str) -> None:
        """As `Storage.delete`."""
        with suppress(FileNotFoundError):
            self._call(lambda: self._files.rm_file(self._path(name)))

    def upload(self, path: Path, name: str, moved: Moved = nobody) -> None:
        """As `Storage.upload`."""
        self._call(lambda: self._files.put_file(str(path), self._path(name), callback=_counting(moved)))

    def download(self, name: str, path: Path, moved: Moved = nobody) -> bool:
        """As `Storage.download`."""
        with suppress(FileNotFoundError):
            self._call(lambda: self._files.get_file(self._path(name), str(path), callback=_counting(moved)))
            return True
        return False

    def _path(self, name: str) -> str:
        root = self._root if not self.url.startswith("memory:") else f"/{self._root}"
        return f"{root}/{name}" if name else root

    def _call(self, work: Callable[[], T]) -> T:
        """What a call returns.

        Raises:
            FileNotFoundError: there is no such object.
            EnvironmentFault: everything else that can go wrong at a server.
        """
        try:
            return work()
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not _no_bucket(error):
                raise
            raise fault_of_storage(error, self.url) from error


def _counting(moved: Moved) -> Any:
    """A callback of fsspec that tells of bytes."""
    from fsspec.callbacks import Callback

    class Counting(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            moved(inc)

    return Counting()


def _no_bucket(error: BaseException) -> bool:
    response = getattr(error.__cause__, "response", None) or {}
    return bool(response.get("Error", {}).get("Code") == "NoSuchBucket")


def _modified(info: Mapping[str, Any]) -> datetime:
    found = next((info[name] for name in ("LastModified", "mtime", "updated", "created") if info.get(name)), None)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    if not isinstance(found, datetime):
        return datetime.fromtimestamp(0).astimezone()
    return found if found.tzinfo else found.astimezone()


def check_storage(storage: Storage) -> None:
    """See that objects can be created, read, listed and deleted, and that an object is created once.

    Raises:
        EnvironmentFault: one of it fails: nothing is begun then.
    """
    name = f"{PROBES}/{uuid4().hex}"
    other = "use a server with conditional writes (If-None-Match), as AWS S3 has, or a directory that all machines see"
    if not storage.create(name, b"first"):
        raise EnvironmentFault("it says that an object is there which nobody has written", where=storage.url, fix=other)
    try:
        if storage.create(name, b"second"):
            what = f"{_server(storage)} writes an object twice that was to be created once: two machines would mix"
            raise EnvironmentFault(what, where=storage.url, fix=other)
        if storage.read(name) != b"first" or PurePosixPath(name).name not in storage.entries(PROBES):
            what = f"{_server(storage)} does not give back what was just written"
            raise EnvironmentFault(what, where=storage.url, fix=other)
    finally:
        storage.delete(name)


def _server(storage: Storage) -> str:
    server = server_of(storage.url)
    return f"the server {server}" if server else "its server"
