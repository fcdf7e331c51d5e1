"""Was the machine ours while we measured? Steal, other processes, waiting for a core, throttling: told, not hidden."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psutil

Reading: TypeAlias = dict[str, float | None]

STEAL, WAIT, THROTTLED, FOREIGN = 0.03, 0.05, 0.02, 0.25
"""From where on timings are suspect: shares of wall time, and for FOREIGN cores beyond those that were free."""

_SHORTEST = 0.2  # seconds from which the kernel's 10 ms ticks say something
_TASKS = Path("/proc/self/task")
_THROTTLE = (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat"))


@dataclass(frozen=True)
class _Snapshot:
    wall: float
    own: float
    busy: float
    steal: float
    wait: float | None
    throttled: float | None


class Probe:
    """Reads the machine's counters at its making and at `stop`.

    Args:
        threads: of the work that is watched.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._start = _snapshot()

    def stop(self) -> Reading:
        """What happened in between; a value that the system does not tell is None.

        `steal_share`: of the machine's time, taken by the hypervisor. `foreign_cores`: cores that other processes
        kept busy. `wait_share`: time our threads stood in the run queue / (wall x threads), at most 1: threads beyond
        those asked for wait too. `throttled_share`: time that the cgroup's quota stopped us. `cpu_share`: our CPU time
        / (wall x threads). `load1`: the load average.
        """
        a, b = self._start, _snapshot()
        wall = max(b.wall - a.wall, 1e-9)
        cores = os.cpu_count() or 1
        long = wall >= _SHORTEST
        own, waited = b.own - a.own, _share(a.wait, b.wait, wall * self.threads)
        return {
            "wall_s": wall,
            "steal_share": (b.steal - a.steal) / (wall * cores) if long else None,
            "foreign_cores": max(0.0, (b.busy - a.busy - own) / wall) if long else None,
            "wait_share": None if waited is None else min(waited, 1.0),
            "throttled_share": _share(a.throttled, b.throttled, wall),
            "cpu_share": own / (wall * self.threads),
            "load1": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        }


def reasons(reading: Mapping[str, float | None], threads: int, cores: int | None = None) -> list[str]:
    """Why timings taken under this reading are suspect; empty when they are not.

    Args:
        reading: of `Probe.stop`, or `worst` of several.
        threads: of the watched work.
        cores: of the machine; other processes on cores we don't need do no harm.
    """
    cores = cores or os.cpu_count() or 1
    found = []
    if _of(reading, "steal_share") > STEAL:
        found.append(f"the hypervisor took {_of(reading, 'steal_share'):.0%} of the time")
    foreign = _of(reading, "foreign_cores")
    if foreign > FOREIGN and foreign + threads > cores + FOREIGN:
        found.append(f"other processes used {foreign:.1f} of {cores} cores")
    if _of(reading, "wait_share") > WAIT:
        found.append(f"the benchmark's threads waited for a core {_of(reading, 'wait_share'):.0%} of the time")
    if _of(reading, "throttled_share") > THROTTLED:
        found.append(f"the cgroup's quota stopped the benchmark {_of(reading, 'throttled_share'):.0%} of the time")
    return found


def worst(readings: Sequence[Mapping[str, float | None]]) -> Reading:
    """The greatest of each value (the least of `cpu_share`), None where none was told."""
    out: Reading = {}
    for key in readings[0] if readings else ():
        told = [value for reading in readings if (value := reading.get(key)) is not None]
        pick = min if key == "cpu_share" else sum if key == "wall_s" else max
        out[key] = float(pick(told)) if told else None
    return out


def _snapshot() -> _Snapshot:
    times = psutil.cpu_times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    return _Snapshot(time.monotonic(), time.process_time(), busy, getattr(times, "steal", 0.0), _wait(), _throttled())


def _wait() -> float | None:
    """Seconds all our threads have stood in the run queue (second field of schedstat, nanoseconds)."""
    total, told = 0, False
    for file in _TASKS.glob("*/schedstat"):
        try:
            total += int(file.read_text().split()[1])
            told = True
        except (OSError, IndexError, ValueError):
            continue  # the thread ended, or the kernel keeps no such count
    return total / 1e9 if told else None


def _throttled() -> float | None:
    """Seconds the cgroup's quota has held its processes."""
    for path in _THROTTLE:
        try:
            fields = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
        except (OSError, ValueError):
            continue
        if "throttled_usec" in fields:
            return int(fields["throttled_usec"]) / 1e6
        if "throttled_time" in fields:
            return int(fields["throttled_time"]) / 1e9
    return None


def _share(a: float | None, b: float | None, whole: float) -> float | None:
    return None if a is None or b is None else max(0.0, b - a) / whole


def _of(reading: Mapping[str, float | None], key: str) -> float:
    value = reading.get(key)
    return 0.0 if value is None else value
