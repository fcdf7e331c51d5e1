"""How many threads this process may really use: the same number for every runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")


def available_threads() -> int:
    """Threads from the affinity mask and the cgroup's CPU quota, at least 1.

    A runtime left alone sizes its pool from the host, and then fights its own quota.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cores()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def cgroup_cores(root: Path = _CGROUP, membership: Path = _SELF) -> float | None:
    """Cores the cgroup quota grants (quota / period), the least over the group and its ancestors.

    Args:
        root: where the cgroup file systems are mounted.
        membership: the process's list of groups, lines of `hierarchy:controllers:path`.

    Returns:
        The cores, or None where there is no quota.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    found: list[float] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            # Version 2 is mounted at the root, or below it where version 1 is mounted beside it.
            for base in (root, root / "unified"):
                found += _along(base, path, _read_v2)
        elif "cpu" in controllers.split(","):
            for name in ("cpu", controllers):
                found += _along(root / name, path, _read_v1)
    return min(found, default=None)


def _along(base: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """What `read` finds in the group and each of its ancestors up to the mount."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    directories = [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    values = [read(directory) for directory in directories]
    return [value for value in values if value is not None]


def _read_v2(directory: Path) -> float | None:
    try:
        quota, period = (directory / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _read_v1(directory: Path) -> float | None:
    try:
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        period = int((directory / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota <= 0 or period <= 0 else quota / period
