"""How many threads this process may really use: the same number for every runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SPIN, _POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
_TURNS = "1000"
_SELF = Path("/proc/self/cgroup")
_limit: int | None = None


def available_threads() -> int:
    """Threads from the affinity mask and the cgroup's CPU quota, at least 1.

    A runtime left alone sizes its pool from the host, and then fights its own quota.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cores()
    granted = [allowed, *([] if quota is None else [int(quota)]), *([] if _limit is None else [_limit])]
    return max(1, min(granted))


def limit_threads(count: int) -> None:
    """Let `available_threads` be no more than that: of a process that shares its machine with others of its kind."""
    global _limit
    _limit = count


def spin_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let the threads of PyTorch and llama.cpp sleep soon while they wait for one another.

    libgomp lets a waiting thread spin 300,000 turns. Beside any other busy process the spinning uses up its time slice,
    the scheduler takes the core away in the middle of the next parallel region, and the others spin for it in turn: a
    training step takes several times as long (`benchmarks/busy_machine.py`). 1,000 turns are what libgomp takes where
    it knows that there are more threads than cores. Read when libgomp is loaded: call it before PyTorch is imported.
    A user's own setting stays.
    """
    if _SPIN not in environment and _POLICY not in environment:
        environment[_SPIN] = _TURNS


def spin_as_usual(environment: MutableMapping[str, str] = os.environ) -> None:
    """Take `spin_briefly` back, for a process that is timed: the default, as a user's own program would have it."""
    if environment.get(_SPIN) == _TURNS:
        del environment[_SPIN]


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
