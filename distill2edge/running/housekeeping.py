"""What the store holds, and what can go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.pipeline.artifact import Artifact
from distill2edge.pipeline.shared_store import SharedStore
from distill2edge.pipeline.store import Store
from distill2edge.pipeline.store_at import store_at
from distill2edge.running import shared_housekeeping
from distill2edge.running.reading import stages_of
from distill2edge.util.progress import Progress, SilentProgress
from distill2edge.util.quantities import readable_bytes, readable_seconds


def open_store(root: Path | str | None) -> Store:
    """The store at a place, or the user's own.

    Raises:
        UserError, EnvironmentFault: as `Store.check`.
    """
    store = store_at(root)
    store.check()
    return store


def free_disk(root: Path) -> int:
    """Bytes that are free where a store is, or will be."""
    place = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free


def _existing(root: Path | str | None) -> Store:
    store = open_store(root)
    if root is not None and not isinstance(store, SharedStore) and not store.root.exists():
        raise UserError("no store there", where=str(root), fix="name the store's directory, or leave --store out")
    return store


def list_store(root: Path | str | None, warn: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """One row per artifact, and per piece of unfinished work (key empty); broken entries are skipped with a warning."""
    store = _existing(root)
    if isinstance(store, SharedStore):
        return shared_housekeeping.rows(store, warn)
    rows = [
        {
            "stage": artifact.manifest["stage"],
            "key": artifact.key[:20],
            "bytes": artifact.size,
            "created": artifact.manifest["created"],
            "wall_s": artifact.manifest["wall_s"],
            "path": str(artifact.path),
        }
        for artifact in store.artifacts(warn)
    ]
    for path in store.partials():
        rows.append(
            {"stage": "partial", "key": "", "bytes": _bytes(path), "created": "", "wall_s": 0, "path": str(path)}
        )
    return rows


def render_store(rows: list[dict[str, Any]]) -> str:
    """The rows as a table with the total."""
    if not rows:
        return "the store is empty"
    lines = [f"{'stage':<10} {'key':<20} {'size':>10} {'took':>8}  created"]
    for row in rows:
        size, took = readable_bytes(row["bytes"]), readable_seconds(row["wall_s"])
        lines.append(f"{row['stage']:<10} {row['key']:<20} {size:>10} {took:>8}  {row['created']}")
    lines.append(f"{len(rows)} entries, {readable_bytes(sum(row['bytes'] for row in rows))}")
    return "\n".join(lines)


def collect_garbage(
    root: Path | str | None,
    kept_runs: Iterable[Path],
    days: int,
    *,
    delete: bool,
    progress: Progress | None = None,
) -> str:
    """Remove unfinished work, and artifacts older than `days` that no kept run names and no run that goes on has used.

    Of a store that machines share, nothing is removed while one of them is at work.

    Args:
        progress: warned of entries that are skipped, and told of waiting.

    Raises:
        UserError: a kept run has no run.json.
    """
    store = _existing(root)
    kept, progress = {key for run in kept_runs for _, key in stages_of(run)}, progress or SilentProgress()
    if isinstance(store, SharedStore):
        return shared_housekeeping.collect(store, kept, days, delete=delete, progress=progress)
    horizon, began = time.time() - days * 86400, store.locks.used_since()
    if began is not None:
        horizon = min(horizon, began - 2)  # coarse clocks of file systems
    doomed: list[tuple[Path, int]] = [
        (path, _bytes(path)) for path in store.partials() if not store.locks.is_built(path)
    ]
    doomed += [
        (artifact.path, artifact.size)
        for artifact in store.artifacts(progress.warn)
        if artifact.key not in kept and _last_use(artifact) < horizon
    ]
    if delete:
        for path, _ in doomed:
            store.remove(path)
    total = readable_bytes(sum(size for _, size in doomed))
    free = readable_bytes(free_disk(store.root))
    verb = "deleted" if delete else "would delete"
    hint = "" if delete or not doomed else "\nadd --yes to delete"
    lines = [f"  {path}  {readable_bytes(size)}" for path, size in doomed]
    if began is not None:
        lines.append("a run is using this store: what it has made or used is kept")
    return "\n".join([*lines, f"{verb} {len(doomed)} entries, {total}; {free} free on the disk{hint}"])


def _last_use(artifact: Artifact) -> float:
    # Runs touch a manifest when they reuse its artifact.
    return (artifact.path / "manifest.json").stat().st_mtime


def _bytes(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        with suppress(OSError):  # it may go while we look
            total += file.lstat().st_size if not file.is_dir() else 0
    return total
