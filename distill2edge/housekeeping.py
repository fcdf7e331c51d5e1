"""What the store holds, and what can go."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.store import Artifact, Store, default_root


def list_store(root: Path | None) -> list[dict[str, Any]]:
    """One row per artifact, and per piece of unfinished work (key empty)."""
    store = Store(root or default_root())
    rows = [
        {
            "stage": artifact.manifest["stage"],
            "key": artifact.key[:20],
            "bytes": artifact.size,
            "created": artifact.manifest["created"],
            "wall_s": artifact.manifest["wall_s"],
            "path": str(artifact.path),
        }
        for artifact in store.artifacts()
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
        size, took = readable_bytes(row["bytes"]), f"{row['wall_s']:.0f} s"
        lines.append(f"{row['stage']:<10} {row['key']:<20} {size:>10} {took:>8}  {row['created']}")
    lines.append(f"{len(rows)} entries, {readable_bytes(sum(row['bytes'] for row in rows))}")
    return "\n".join(lines)


def collect_garbage(root: Path | None, kept_runs: Iterable[Path], days: int, *, delete: bool) -> str:
    """Remove unfinished work, and artifacts older than `days` that no kept run names.

    Raises:
        UserError: a kept run has no run.json.
    """
    store = Store(root or default_root())
    kept = {stage["key"] for run in kept_runs for stage in _run(run)["stages"]}
    horizon = time.time() - days * 86400
    doomed: list[tuple[Path, int]] = [(path, _bytes(path)) for path in store.partials()]
    doomed += [
        (artifact.path, artifact.size)
        for artifact in store.artifacts()
        if artifact.key not in kept and _last_use(artifact) < horizon
    ]
    if delete:
        for path, _ in doomed:
            store.remove(path)
    total = readable_bytes(sum(size for _, size in doomed))
    free = readable_bytes(shutil.disk_usage(store.root if store.root.exists() else Path.home()).free)
    verb = "deleted" if delete else "would delete"
    hint = "" if delete or not doomed else "\nadd --yes to delete"
    lines = [f"  {path}  {readable_bytes(size)}" for path, size in doomed]
    return "\n".join([*lines, f"{verb} {len(doomed)} entries, {total}; {free} free on the disk{hint}"])


def readable_bytes(count: float) -> str:
    """`93.8 MB`: powers of ten, as disks and stores print them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _last_use(artifact: Artifact) -> float:
    # Runs touch a manifest when they reuse its artifact.
    return (artifact.path / "manifest.json").stat().st_mtime


def _run(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    if not file.is_file():
        raise UserError(
            "not a run directory: no run.json", where=str(path), fix="name a directory such as runs/quickstart"
        )
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
