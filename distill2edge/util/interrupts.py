"""A request to end (SIGTERM, a closed terminal) is what Ctrl-C is: an exception, so that every `finally` runs."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a run to end, on this system."""
PARENT = "DISTILL2EDGE_PARENT"
"""Environment variable of a worker: the process id of who started it."""
NO_BACKTRACE = {"GGML_NO_BACKTRACE": "1"}
"""Of a process that may abort in llama.cpp: else it starts a debugger on itself, which can hang."""
_PR_SET_PDEATHSIG = 1


class Stopped(KeyboardInterrupt):
    """The process was asked to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = int(number)

    @property
    def exit_code(self) -> int:
        """What a shell shows of a process that the signal ended: 130, 143, 129."""
        return 128 + self.number


@contextmanager
def caught() -> Iterator[None]:
    """Within the block the signals raise `Stopped` in the main thread. One that is ignored (`nohup`) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] in (signal.SIG_DFL, signal.default_int_handler)]
    for number in taken:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to end this process when its parent ends, so that a killed run leaves nothing computing.

    Args:
        parent: its process id; where it has ended before we could ask, this process ends now.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)
