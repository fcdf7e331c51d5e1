"""A process that forks the processes of checks. It never sees a row, so none of its children begins with another's."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import NoReturn

from . import walls
from .checked import Settings, run
from .kinds import Check

_FORK = b"fork"
_PR_SET_CHILD_SUBREAPER = 36


class Zygote:
    """The guard's side of it.

    Args:
        check, settings: as `checked.run`.
    """

    def __init__(self, check: Check | None, settings: Settings) -> None:
        self._control, theirs = socket.socketpair()
        if os.fork() == 0:
            self._control.close()
            _serve(theirs, check, settings)
        theirs.close()

    def fork(self) -> tuple[int, socket.socket]:
        """A new process for a check: its number there, and the guard's end of its channel.

        Raises:
            OSError: the zygote is gone.
        """
        mine, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [_FORK], [theirs.fileno()])
        return int(self._said()), mine

    def end(self, number: int, patience_s: float) -> int:
        """Its wait status, once it has ended by itself or was killed; nothing that it started is left then."""
        self._control.send(f"{number} {patience_s}".encode())
        return int(self._said())

    def _said(self) -> bytes:
        said = self._control.recv(64)
        if not said:
            raise OSError("the process that starts checks is gone")
        return said


def _serve(control: socket.socket, check: Check | None, settings: Settings) -> NoReturn:
    try:
        os.closerange(0, 2)
        os.closerange(3, control.fileno())
        os.closerange(control.fileno() + 1, 1 << 20)
        if settings["walls"]:
            walls.die_with_parent()
            walls.libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what a check leaves is ours to end
        while True:
            said, descriptors, _, _ = socket.recv_fds(control, 64, 1)
            if not said:
                break
            if said == _FORK:
                number = os.fork()
                if number == 0:
                    run(descriptors[0], check, settings)
                os.close(descriptors[0])
                control.send(str(number).encode())
            else:
                child, patience = said.split()
                control.send(str(_reap(int(child), float(patience))).encode())
    finally:
        os._exit(0)


def _reap(child: int, patience: float) -> int:
    deadline, pause = time.monotonic() + patience, 0.0002
    status = None
    while status is None and time.monotonic() < deadline:
        pid, found = os.waitpid(child, os.WNOHANG)
        if pid:
            status = found
        else:
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
    if status is None:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    try:
        while True:  # the answer's process, which the kernel kills with its parent
            os.waitpid(-1, 0)
    except ChildProcessError:
        return status
