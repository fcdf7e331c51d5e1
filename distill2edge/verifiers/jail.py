"""The process in which checks run, spoken to in lines of JSON. Light: it forks for every check.

It cuts itself off once (namespaces, where the kernel allows them), then forks for every check, so that none sees what
another left behind. What holds a check:

- wall time: the whole process tree is killed;
- memory: RLIMIT_AS; size of a file: RLIMIT_FSIZE; no core dumps;
- files: an empty directory that is deleted. With namespaces every mount is read-only and the directory is a tmpfs of
  bounded size; without them an audit hook (PEP 578) refuses to open, rename or delete anything outside it;
- network: a network namespace without interfaces; without one, the audit hook refuses sockets;
- processes: a PID namespace that dies with the check; else the process group. The hook refuses to start any.

The audit hook is there in both cases. Alone it stops mistakes and ordinary code, not native code that means harm: the
parent is told which of the two is in force.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

from distill2edge.verifiers.inside import Check, checker
from distill2edge.verifiers.walls import Walls, audit_hook, cut_off

_LONGEST = 4096  # bytes of a line: what a pipe takes in one piece (PIPE_BUF)
_REASON = 300  # characters
_LAST_WISH = 0.5  # seconds that a process which has answered or closed its pipe has to end

Item = dict[str, str]
Answer = dict[str, Any]


def main() -> None:
    """Read the settings, cut off, answer a list of checks per line until the input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    check = checker(settings)
    walls = cut_off(settings["base"], settings["file_mb"], settings.get("namespaces", True))
    _say(channel, walls.held)
    for line in sys.stdin:
        _say(channel, _answer(json.loads(line), check, settings, walls))


def _say(channel: Any, value: Any) -> None:
    channel.write(json.dumps(value) + "\n")
    channel.flush()


def _answer(items: list[Item], check: Check, settings: dict[str, Any], walls: Walls) -> list[Answer]:
    """One answer per item. Up to `share` of them run in one process, one after the other.

    What goes wrong there may be the fault of a row before: it is believed of the first row of a process alone, and
    any other is tried again as the first of a new one.
    """
    answers: list[Answer] = []
    while len(answers) < len(items):
        part = items[len(answers) : len(answers) + settings["share"]]
        found, failure = _one_process(part, check, settings, walls)
        answers += found
        if not found:
            answers.append(failure)
    return answers


# --- one process ----------------------------------------------------------------


def _one_process(
    items: list[Item], check: Check, settings: dict[str, Any], walls: Walls
) -> tuple[list[Answer], Answer]:
    """The answers of the first rows, and what went wrong if not all are there."""
    place = tempfile.mkdtemp(dir=settings["base"])
    reading, writing = os.pipe()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(items, check, settings, place, writing, walls)
    os.close(writing)
    try:
        return _await(child, reading, settings["seconds"], len(items))
    finally:
        os.close(reading)
        shutil.rmtree(place, ignore_errors=True)


def _await(child: int, reading: int, seconds: float, wanted: int) -> tuple[list[Answer], Answer]:
    deadline = time.monotonic() + seconds
    rest, inner, late = b"", 0, False
    answers: list[Answer] = []
    while len(answers) < wanted and len(rest) <= _LONGEST:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            late = True
            break
        part = os.read(reading, 65_536)
        if not part:
            break
        *lines, rest = (rest + part).split(b"\n")
        for said in filter(None, map(_object, lines)):
            if isinstance(said.get("pid"), int):
                inner = inner or said["pid"]
            else:
                answers.append(said)
                deadline = time.monotonic() + seconds
    status = None if late else _ended(child, _LAST_WISH)
    # The process of the checks by its number, as it may have left the group; then the group.
    for kill, number in ((os.kill, inner), (os.killpg, child)):
        if number > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(number, signal.SIGKILL)
    if status is None:
        status = os.waitpid(child, 0)[1]
    if late:
        return answers, {"outcome": "timed out", "reason": f"no verdict after {seconds:g} s"}
    return answers[:wanted], {"outcome": "crashed", "reason": f"the process ended without a verdict: {_how(status)}"}


def _object(line: bytes) -> dict[str, Any] | None:
    """A line of JSON; None for anything else that a check wrote into the pipe."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _ended(child: int, seconds: float) -> int | None:
    deadline, pause = time.monotonic() + seconds, 0.0002
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return None


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0 or code > 128:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code if code < 0 else code - 128).name}"
    return f"exit code {code}"


def _in_child(
    items: list[Item], check: Check, settings: dict[str, Any], place: str, writing: int, walls: Walls
) -> None:
    """Never returns. A session of its own; where possible the process of the checks is the first of a PID namespace."""
    try:
        os.setsid()
        if walls.pid_namespace:
            walls.enter_pid_namespace()
            inner = os.fork()
            if inner:
                _tell(writing, {"pid": inner})
                os.close(writing)
                code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
                os._exit(code if code >= 0 else 128 - code)
            walls.die_with_parent()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.closerange(3, writing)
        os.closerange(writing + 1, 1024)
        os.chdir(place)
        _limit(settings, place)
        for number, item in enumerate(items):
            answer = _run(item, check, settings)
            if number and answer["outcome"] not in ("accepted", "rejected"):
                break  # it is tried again in a process of its own
            _tell(writing, answer)
    finally:
        os._exit(0)


def _tell(pipe: int, value: dict[str, Any]) -> None:
    os.write(pipe, (json.dumps(value) + "\n").encode()[:_LONGEST])


def _limit(settings: dict[str, Any], place: str) -> None:
    memory, files = settings["memory_mb"] << 20, settings["file_mb"] << 20
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails with an error that has a name
    sys.addaudithook(audit_hook(place))


def _run(item: Item, check: Check, settings: dict[str, Any]) -> Answer:
    try:
        found = check(item["prompt"], item["response"], item["reference"])
    except AssertionError as error:
        return {"outcome": "rejected", "reason": f"assertion failed: {error}"[:_REASON].rstrip(": ")}
    except MemoryError:
        return {"outcome": "out of memory", "reason": f"more than {settings['memory_mb']} MB"}
    except BaseException as error:  # whatever a check raises, SystemExit too, is its crash: told, not raised
        return {"outcome": "crashed", "reason": f"{type(error).__name__}: {error}"[:_REASON]}
    if isinstance(found, dict):
        return found
    passed, reason = found if isinstance(found, tuple) and len(found) == 2 else (found, "")
    if not isinstance(passed, bool):
        return {"outcome": "crashed", "reason": f"check returned {type(found).__name__}, not a bool"}
    reason = str(reason)[:_REASON] or ("" if passed else "check said no")
    return {"outcome": "accepted" if passed else "rejected", "reason": reason}


if __name__ == "__main__":
    main()
