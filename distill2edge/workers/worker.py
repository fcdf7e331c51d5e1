"""A worker: makes shards in a process of its own, and says how it failed in words that can be sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill2edge.processes.own_pickles import unpack
from distill2edge.util.interrupts import NO_BACKTRACE

WHERE = "teacher.workers"


class Worker:
    """Loads a pass and makes the shards that it is given, one after another.

    Nothing is imported before the number of threads is settled: some libraries read it once.
    """

    def __init__(self, payload: bytes, threads: int, gpus: int) -> None:
        """`payload`: a pickled pass."""
        os.environ |= {"OMP_NUM_THREADS": str(threads), **NO_BACKTRACE}
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._payload, self._threads = payload, threads
        self._work: Any = None

    def ready(self, reads: list[str]) -> dict[str, Any]:
        """Where it is: `host`, `pid`; and `missing`: the first of the files that it does not see."""
        from distill2edge.processes.launched_group import unseen

        return {"host": socket.gethostname(), "pid": os.getpid(), "missing": unseen(reads, patience_s=10.0)}

    def make(self, shard: Any) -> tuple[Any, int]:
        """What comes of a shard, and its rows; -1 with how it failed, as `processes.messages.ending_of`."""
        rows = 0

        def done(steps: int = 1, note: str = "") -> None:
            nonlocal rows
            rows += steps

        try:
            if self._work is None:
                self._open()
            return self._work(shard, done), rows
        except BaseException as error:
            return _ending(error), -1

    def _open(self) -> None:
        from distill2edge.util.allocator import keep_freed_memory
        from distill2edge.util.libraries import settle_libraries
        from distill2edge.util.threads import limit_threads, spin_briefly

        settle_libraries()
        keep_freed_memory()
        spin_briefly()
        limit_threads(self._threads)
        self._work = unpack(self._payload)


def _ending(error: BaseException) -> dict[str, Any]:
    """How a worker failed; one that is short of memory says so in a sentence."""
    from distill2edge.errors import EnvironmentFault
    from distill2edge.processes.messages import ending_of

    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = f"a worker on {socket.gethostname()} has no memory left: {str(error).splitlines()[0]}"
        error = EnvironmentFault(what, where=WHERE, fix="give each worker more, by fewer replicas or larger machines")
    return ending_of(error)


def probe(place: str) -> Callable[[], dict[str, Any]]:
    """What is run on a node before any worker: a function that needs nothing of ours there.

    Args:
        place: a file that the node should see; empty: none.

    Returns:
        a function that returns `host`, `versions`, `sees` and `gpu_bytes`.
    """

    def look() -> dict[str, Any]:
        import shutil
        import socket
        import subprocess
        from importlib import metadata
        from pathlib import Path

        versions = {}
        for name in ("distill2edge", "torch", "transformers", "tokenizers", "numpy", "safetensors"):
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                versions[name] = ""
        gpus: list[int] = []
        if shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
            told = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split()
            gpus = [int(each) << 20 for each in told if each.isdigit()]
        sees = not place or Path(place).exists()
        return {"host": socket.gethostname(), "versions": versions, "sees": sees, "gpu_bytes": gpus}

    return look


def existing(reads: Any) -> list[str]:
    """Those of the files that are here."""
    return [str(path) for path in map(Path, reads) if path.exists()]
