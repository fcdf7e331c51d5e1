"""What a store that machines share holds, and what can go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from distill2edge.pipeline.object_storage import PROBES, Entry, Storage
from distill2edge.pipeline.published import Published
from distill2edge.pipeline.shared_answers import UNFINISHED
from distill2edge.pipeline.shared_store import SharedStore
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes


def rows(store: SharedStore, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """As `housekeeping.list_store`; broken entries are skipped with a warning."""
    found = []
    for place, published, objects in store.publications.all():
        manifest = published.manifest
        if published.fault or manifest is None:
            if published.fault:
                warn(f"{store.url}/{place} is skipped: {published.fault}")
            continue
        found.append(
            {
                "stage": manifest["stage"],
                "key": manifest["key"][:20],
                "bytes": _bytes(objects),
                "created": manifest["created"],
                "wall_s": manifest["wall_s"],
                "path": f"{store.url}/{place}",
            }
        )
    unfinished = store.storage.entries(UNFINISHED)
    for label in sorted({name.partition("/")[0] for name in unfinished}):
        size = sum(entry.size for name, entry in unfinished.items() if name.startswith(f"{label}/"))
        path = f"{store.url}/{UNFINISHED}/{label}"
        found.append({"stage": "partial", "key": "", "bytes": size, "created": "", "wall_s": 0, "path": path})
    return found


def collect(store: SharedStore, kept: Set[str], days: int, *, delete: bool, progress: Progress) -> str:
    """As `housekeeping.collect_garbage`: nothing goes while a machine is at work. Runs that begin wait for
    a collection that deletes, and not for one that only looks.

    Args:
        kept: keys of artifacts that stay.
    """
    # Who only looks holds no lease: runs would wait for it.
    with store.leases.collecting(progress) if delete else nullcontext(store.leases.at_work(progress)) as busy:
        if busy:
            return f"nothing {'is' if delete else 'would be'} deleted: {busy}"
        doomed = list(_doomed(store, kept, _now(store.storage) - timedelta(days=days)))
        if delete:
            for each in doomed:
                store.publications.remove(each.place, each.names)
    total = readable_bytes(sum(each.size for each in doomed))
    lines = [f"  {store.url}/{each.place}  {readable_bytes(each.size)}" for each in doomed]
    hint = "" if delete or not doomed else "\nadd --yes to delete"
    return "\n".join([*lines, f"{'deleted' if delete else 'would delete'} {len(doomed)} entries, {total}{hint}"])


@dataclass(frozen=True)
class _Doomed:
    """Objects of a place that can go."""

    place: str
    names: list[str]
    size: int


def _doomed(store: SharedStore, kept: Set[str], horizon: datetime) -> Iterator[_Doomed]:
    for place, published, objects in store.publications.all():
        if published.manifest is not None and published.manifest["key"] in kept:
            names = _left_over(published, objects)
        elif max(entry.modified for entry in objects.values()) < horizon:
            names = list(objects)
        else:
            names = _left_over(published, objects)
        if names:
            yield _Doomed(place, names, sum(objects[name].size for name in names))
    for folder in (UNFINISHED, PROBES):
        found = store.storage.entries(folder)
        if names := [name for name, entry in found.items() if entry.modified < horizon]:
            yield _Doomed(folder, names, sum(found[name].size for name in names))


def _left_over(published: Published, objects: dict[str, Entry]) -> list[str]:
    """Files that no record names any more, or that a machine was killed over: nobody is at work now."""
    if published.fault:  # a record of another version may name them
        return []
    return [name for name in objects if "/" in name and name.partition("/")[0] not in ("records", published.folder)]


def _bytes(objects: dict[str, Entry]) -> int:
    return sum(entry.size for entry in objects.values())


def _now(storage: Storage) -> datetime:
    """The time of the server's clock, which is that of its objects."""
    name = f"{PROBES}/{uuid4().hex}"
    storage.create(name, b"")
    try:
        return storage.entries(PROBES)[name.rpartition("/")[2]].modified
    finally:
        storage.delete(name)
