"""Training processes on this machine: started for one training, watched, and ended together."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.processes.group import Job
from distill2edge.processes.messages import ENDINGS, Shown, error_of
from distill2edge.processes.own_pickles import pack, unpack
from distill2edge.util.allocator import give_back_memory
from distill2edge.util.interrupts import PARENT
from distill2edge.util.isolate import how_ended, last_words
from distill2edge.util.progress import Progress
from distill2edge.util.threads import available_threads

MEETING = "DISTILL2EDGE_MEETING"
"""Environment variable of a training process: the file by which they find each other."""
RESUME = "run the same command again: it goes on from the last checkpoint"
_LOOPBACK = Path("/sys/class/net/lo")
_GRACE_S = 5.0  # in which the others may still say why, once one has failed
_POLL_S = 0.2


class LocalGroup:
    """Starts `count` processes for each call, and ends with them.

    They take the job from their standard input and are in sessions of their own, so that a Ctrl-C of the terminal
    reaches the parent alone, which lets all of them save the same step.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def call(self, job: Job, progress: Progress) -> Any:
        """As `Group.call`."""
        check_batches(job, self.count)
        give_back_memory()
        with tempfile.TemporaryDirectory(prefix="distill2edge-") as place:
            crew = _Crew([_start(rank, self.count, Path(place)) for rank in range(self.count)], Shown(progress))
            try:
                crew.give(packed(job))
                return crew.result()
            except KeyboardInterrupt:
                crew.stop()
                raise
            finally:
                crew.end()


def check_batches(job: Job, count: int) -> None:
    """Refuse more processes than a batch has rows.

    Raises:
        UserError: there are.
    """
    for size in job.batches:
        if size < count:
            raise UserError(
                f"{count} processes share a batch of {size} rows: some would have none",
                where=f"{job.stage}: batch_size",
                fix=f"use at most {size} processes, or a batch_size of at least {count}",
            )


def packed(job: Job) -> bytes:
    """The job, and the files of the user's own code that must be run before it can be read."""
    files = [str(path) for path in job.files]
    return pack((files, pack(job)))


def unpacked(payload: bytes) -> Job:
    """As `packed`; what the files register is registered.

    Args:
        payload: of our own parent, or of process 0.
    """
    from distill2edge.util.plugins import load_plugin

    files, inner = unpack(payload)
    for path in files:
        load_plugin(Path(path))
    job: Job = unpack(inner)
    return job


@dataclass
class _Process:
    rank: int
    process: subprocess.Popen[bytes]
    log: Path
    ending: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it has ended otherwise than it should."""
        return self.process.poll() is not None and not self.ending.keys() & {"result", "stopped"}


def _start(rank: int, count: int, place: Path) -> _Process:
    root = str(Path(__file__).resolve().parents[2])
    threads = max(1, available_threads() // count)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        MEETING: str(place / "meeting"),
        PARENT: str(os.getpid()),
    }
    if _LOOPBACK.exists():  # a name of this machine that leads nowhere, or outside, must not matter
        environment.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK.name)
    log = place / f"{rank}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "distill2edge.processes.local_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True,
        )  # fmt: skip
    return _Process(rank, process, log)


class _Crew:
    """The processes of one call."""

    def __init__(self, processes: list[_Process], shown: Shown) -> None:
        self._all, self._shown = processes, shown
        self._told: queue.Queue[tuple[_Process, bytes | None]] = queue.Queue()
        self._listening = [self._thread(self._listen, each) for each in processes]

    @staticmethod
    def _thread(work: Callable[..., None], *given: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=given, daemon=True)
        thread.start()
        return thread

    def _listen(self, each: _Process) -> None:
        assert each.process.stdout is not None
        with each.process.stdout as stream:
            for line in stream:
                self._told.put((each, line))
        self._told.put((each, None))

    def give(self, payload: bytes) -> None:
        """Hand the job to all at once."""

        def hand(each: _Process) -> None:
            assert each.process.stdin is not None
            with suppress(BrokenPipeError), each.process.stdin as stream:  # one that has died is seen by its end
                stream.write(payload)

        for thread in [self._thread(hand, each) for each in self._all]:
            thread.join()

    def result(self) -> Any:
        """Show what they say until all have ended; what process 0 returned.

        Raises:
            UserError: one has failed or was ended by somebody else.
        """
        self._hear()
        if any("result" not in each.ending for each in self._all):
            raise self._failure()
        return self._all[0].ending["result"]

    def _hear(self) -> None:
        """Show what they say until all have ended, or one has failed and the others had time to say why."""
        open_streams, deadline = len(self._all), math.inf
        while open_streams and time.monotonic() < deadline:
            if deadline == math.inf and any(each.failed for each in self._all):
                deadline = time.monotonic() + _GRACE_S
            with suppress(queue.Empty):
                each, line = self._told.get(timeout=_POLL_S)
                if line is None:
                    open_streams -= 1
                    each.process.wait()
                else:
                    self._take(each, line)
        self._shown.close()

    def _take(self, each: _Process, line: bytes) -> None:
        message = json.loads(line)
        if any(key in message for key in ENDINGS):
            each.ending = message
        else:
            self._shown.show(message)

    def _failure(self) -> BaseException:
        """The one cause: what a process said, or that it was killed, before what that did to the others."""
        for each in self._all:
            if "error" in each.ending:
                return error_of(each.ending)
        named = f"--processes {len(self._all)}"
        for each in self._all:
            code = each.process.poll()
            if code is not None and not each.ending:
                words = "" if code < 0 else f"\n{last_words(each.log)}".rstrip()
                return EnvironmentFault(
                    f"training process {each.rank}: {how_ended(code)}{words}", where=named, fix=RESUME
                )
            if "stopped" in each.ending:
                name = signal.Signals(each.ending["stopped"]).name
                return EnvironmentFault(
                    f"training process {each.rank} was asked to end ({name})", where=named, fix=RESUME
                )
        told = next(each for each in self._all if "fault" in each.ending)
        return RuntimeError(f"training process {told.rank} of {len(self._all)}:\n{told.ending['fault']}")

    def stop(self) -> None:
        """Let all finish their step and save it. A second request to end, meanwhile, ends them at once."""
        for each in self._all:
            with suppress(ProcessLookupError):
                each.process.terminate()
        self._hear()

    def end(self) -> None:
        """End those that are still there."""
        for each in self._all:
            if each.process.poll() is None:
                each.process.kill()
        for each in self._all:
            each.process.wait()
        for thread in self._listening:
            thread.join()
