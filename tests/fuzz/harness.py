"""Runs many seeded cases of one kind of input in a process of its own, and counts what must never happen.

A kind is a module `tests/fuzz/kinds/NAME.py` with

    COUNT: int                                  cases of the full run
    def prepare(work: Path) -> Any              made once, before the first case; imports belong here
    def attempt(random: Random, prepared: Any, work: Path) -> None
                                                one case; returns (accepted) or raises UserError (refused)

Any other exception is a traceback that a user would have seen. A case that takes more than `limit_s` of processor time
is a hang, and so is one that waits for ever (a busy machine is not): its process is killed, and a new one goes on after
it. Case i of a seed is always the same: `replay` runs one alone.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import psutil

KINDS = Path(__file__).with_name("kinds")
_START_S = 120.0  # imports and `prepare`
_WAIT = 8  # times the limit that a case may take by the clock


@dataclass
class Summary:
    """What happened to the cases of one kind.

    Attributes:
        tracebacks, hangs: (case, last lines of the traceback or the seconds) of each.
        slowest_s: processor seconds of the slowest case that ended.
        grown_mb: growth of the peak memory of a process over its state after `prepare`, the greatest.
        peak_mb: peak memory of a process in all, imports included, the greatest.
    """

    kind: str
    seed: int
    accepted: int = 0
    refused: int = 0
    tracebacks: list[tuple[int, str]] = field(default_factory=list)
    hangs: list[tuple[int, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    grown_mb: float = 0.0
    peak_mb: float = 0.0

    @property
    def cases(self) -> int:
        """Cases that ended in one way or another."""
        return self.accepted + self.refused + len(self.tracebacks) + len(self.hangs)


def kinds() -> list[str]:
    """The names of every kind."""
    return sorted(path.stem for path in KINDS.glob("*.py") if path.stem != "__init__")


def count_of(kind: str) -> int:
    """Cases of a kind's full run."""
    return int(_module(kind).COUNT)


def run(
    kind: str, count: int, seed: int = 0, limit_s: float = 5.0, log: Callable[[str], None] = lambda line: None
) -> Summary:
    """Run cases 0 to `count - 1` of a kind."""
    summary, case = Summary(kind, seed), 0
    context = multiprocessing.get_context("spawn")
    while case < count:
        ours, theirs = context.Pipe()
        worker = context.Process(target=_work, args=(theirs, kind, seed, case, count), daemon=True)
        worker.start()
        theirs.close()
        try:
            case = _follow(ours, worker, case, count, limit_s, summary, log)
        finally:
            worker.kill()
            worker.join()
            ours.close()
    return summary


def replay(kind: str, case: int, seed: int = 0) -> None:
    """Run one case in this process, for a debugger: its exception is raised."""
    module = _module(kind)
    with tempfile.TemporaryDirectory() as root:
        prepared = module.prepare(_folder(root, "prepared"))
        module.attempt(Random(f"{seed}:{case}"), prepared, _folder(root, "case"))


def _follow(
    pipe: Connection, worker: Any, case: int, count: int, limit_s: float, summary: Summary, log: Callable[[str], None]
) -> int:
    """Read the worker's results until it is done or must be replaced; returns the next case."""
    wait = _START_S
    while case < count:
        try:
            message = pipe.recv() if _comes(pipe, worker.pid, wait) else None
        except EOFError:
            if wait == _START_S:
                raise RuntimeError(f"the worker of {summary.kind} ended in `prepare`") from None
            worker.join(10)
            summary.tracebacks.append((case, f"the process died (exit code {worker.exitcode})"))
            return case + 1
        if message is None:
            if wait == _START_S:
                raise RuntimeError(f"`prepare` of {summary.kind} took longer than {_START_S:.0f} s")
            summary.hangs.append((case, f"> {limit_s} s"))
            log(f"{summary.kind} {case}: hangs")
            return case + 1
        wait = limit_s
        if message == "ready":
            continue
        state, seconds, base_mb, peak_mb, text = message
        summary.slowest_s = max(summary.slowest_s, seconds)
        summary.grown_mb = max(summary.grown_mb, peak_mb - base_mb)
        summary.peak_mb = max(summary.peak_mb, peak_mb)
        if seconds > limit_s:
            summary.hangs.append((case, f"{seconds:.1f} s"))
            log(f"{summary.kind} {case}: {seconds:.1f} s")
        elif state == "accepted":
            summary.accepted += 1
        elif state == "refused":
            summary.refused += 1
        else:
            summary.tracebacks.append((case, text))
            log(f"{summary.kind} {case}: {text}")
        case += 1
    return case


def _comes(pipe: Connection, pid: int, limit_s: float) -> bool:
    """Whether a message comes before the process has used up its processor time, or has waited many times as long."""
    before, start = _used_s(pid), time.monotonic()
    while not pipe.poll(limit_s / 2):
        if _used_s(pid) - before > limit_s or time.monotonic() - start > _WAIT * limit_s:
            return False
    return True


def _used_s(pid: int) -> float:
    """Processor seconds of a process and its children, those that ended among them."""
    try:
        process = psutil.Process(pid)
        each = [member.cpu_times() for member in (process, *process.children(recursive=True))]
    except psutil.Error:
        return 0.0
    return sum(times.user + times.system + times.children_user + times.children_system for times in each)


def _work(pipe: Connection, kind: str, seed: int, first: int, count: int) -> None:
    from distill2edge.errors import UserError

    module = _module(kind)
    with tempfile.TemporaryDirectory() as root:
        prepared = module.prepare(_folder(root, "prepared"))
        base = _peak_mb()
        pipe.send("ready")
        for case in range(first, count):
            work, state, text = _folder(root, "case"), "accepted", ""
            start = _own_s()
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    module.attempt(Random(f"{seed}:{case}"), prepared, work)
            except UserError:
                state = "refused"
            except BaseException as error:
                state, text = "traceback", _last_lines(error)
            pipe.send((state, _own_s() - start, base, _peak_mb(), text))
            shutil.rmtree(work, ignore_errors=True)


def _own_s() -> float:
    """Processor seconds of this process, and of its children that ended."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def _module(kind: str) -> Any:
    return importlib.import_module(f"fuzz.kinds.{kind}")


def _folder(root: str, name: str) -> Path:
    path = Path(root, name)
    path.mkdir()
    return path


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _last_lines(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:200]}"
