"""The process that the product starts for a verifier's checks, spoken to in lines of JSON.

It runs no code of a check: it starts processes that do (`zygote`), sends each its rows, waits with a clock, and reads
lines that begin with a mark of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from . import walls
from .checked import LONGEST_LINE, Settings
from .kinds import checker
from .zygote import Zygote

_LAST_WISH = 0.5  # seconds that a process which has answered or closed its channel has to end
_MOST = 1 << 20  # bytes of a process's answers, noise included
_PROBE_S = 20.0

# What a check may import where it can open no file: loaded before.
_PRELOADED = (
    "abc argparse array ast base64 binascii bisect calendar cmath codecs collections.abc contextlib copy csv "
    "dataclasses datetime decimal difflib enum fractions functools hashlib heapq hmac html html.parser inspect io "
    "itertools json keyword locale math numbers operator pprint queue random re secrets shlex statistics string "
    "struct sys textwrap threading time timeit tokenize traceback types typing unicodedata unittest urllib.parse "
    "uuid warnings xml.etree.ElementTree zlib"
)

Item = dict[str, str]
Answer = dict[str, Any]


def main() -> None:
    """Read the settings, cut off, say what holds, answer a list of checks per line until the input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    sys.path[:] = [path for path in sys.path if path and not path.endswith(("site-packages", "dist-packages"))]
    sys.path += settings.get("site", ())
    settings["walls"] = sys.platform.startswith("linux")
    try:
        check = checker(settings)
        del sys.path[len(sys.path) - len(settings.get("site", ())) :]
        held = _cut_off(settings)
        if settings["walls"]:
            walls.die_with_parent()  # after the namespaces: new credentials clear it
        zygote = Zygote(check, {name: settings[name] for name in _FOR_PROCESSES})
        fault = _probe(zygote)
    except (OSError, ImportError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
    _say(channel, {"fault": fault} if fault else {"held": held})
    if fault:
        return
    # The code of the check comes now: the zygote, and with it the process of an answer, has never held it.
    settings |= json.loads(sys.stdin.readline())
    for line in sys.stdin:
        _say(channel, _answer(json.loads(line), settings, zygote))


_FOR_PROCESSES = ("memory_mb", "file_mb", "seconds", "share", "namespaces", "walls")


def _cut_off(settings: Settings) -> dict[str, str]:
    if settings["namespaces"] and settings["walls"]:
        return walls.separate(settings["base"])
    settings["namespaces"] = False
    for name in _PRELOADED.split() if settings["kind"] == "python" else ():
        with contextlib.suppress(ImportError):  # a Python built without it
            importlib.import_module(name)
    by = "system-call filter" if settings["walls"] else "nothing: no code of a response runs"
    return {"network": by, "files": by, "processes": by}


def _say(channel: Any, value: Any) -> None:
    channel.write(json.dumps(value) + "\n")
    channel.flush()


def _probe(zygote: Zygote) -> str:
    """Why no process can be held; empty where one can."""
    found, failure = _one_process({"probe": True, "items": []}, 1, _PROBE_S, zygote)
    if found and found[0].get("outcome") == "ready":
        return ""
    return str(failure["reason"])


def _answer(items: list[Item], settings: Settings, zygote: Zygote) -> list[Answer]:
    """One answer per item. Up to `share` of them run in one process, one after the other.

    What goes wrong there may be the fault of a row before: it is believed of the first row of a process alone, and
    any other is tried again as the first of a new one.
    """
    answers: list[Answer] = []
    own = {name: settings.get(name, "") for name in ("code", "file")}
    while len(answers) < len(items):
        part = items[len(answers) : len(answers) + settings["share"]]
        job = {"probe": False, "items": part, **own}
        found, failure = _one_process(job, len(part), settings["seconds"], zygote)
        answers += [_explained(each, settings) for each in found] or [failure]
    return answers


def _explained(said: Answer, settings: Settings) -> Answer:
    if said.get("outcome") == "out of memory":
        return {**said, "reason": f"more than {settings['memory_mb']} MB"}
    if said.get("outcome") == "crashed" and isinstance(code := said.get("answer ended"), int):
        return {**said, "reason": f"the process of the response ended: {_how(code)}"}
    return said


# --- one process ----------------------------------------------------------------


def _one_process(job: dict[str, Any], wanted: int, seconds: float, zygote: Zygote) -> tuple[list[Answer], Answer]:
    """The answers of the first rows, and what went wrong if not all are there."""
    mark = os.urandom(16).hex()
    number, channel = zygote.fork()
    with channel:
        reader = _Reader(channel, mark.encode())
        try:
            channel.settimeout(seconds)
            channel.sendall(json.dumps({**job, "mark": mark}).encode() + b"\n")
        except OSError:
            pass  # it ended already, or does not read: what it says, or does not say in time, tells
        answers = reader.read(wanted, seconds)
    status = zygote.end(number, 0.0 if reader.late or reader.fault else _LAST_WISH)
    if reader.late:
        return answers, {"outcome": "timed out", "reason": f"no verdict after {seconds:g} s"}
    if reader.fault:
        return answers, {"outcome": "crashed", "reason": reader.fault}
    how = _how(os.waitstatus_to_exitcode(status))
    return answers, {"outcome": "crashed", "reason": f"the process ended without a verdict: {how}"}


class _Reader:
    """Lines of one process that begin with its mark; a clock that starts again with each."""

    def __init__(self, channel: socket.socket, mark: bytes) -> None:
        self._channel, self._mark = channel, mark
        self.late, self.fault = False, ""

    def read(self, wanted: int, seconds: float) -> list[Answer]:
        """Until all are there, the channel closes, too much comes or it takes too long."""
        answers: list[Answer] = []
        deadline = time.monotonic() + seconds
        rest, count = b"", 0
        self._channel.setblocking(False)
        while len(answers) < wanted:
            ready, _, _ = select.select([self._channel], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.late = True
                break
            try:
                part = self._channel.recv(65_536)
            except ConnectionError:
                break
            count += len(part)
            if count > _MOST:
                self.fault = f"the process wrote more than {_MOST:,} bytes"
            if not part or self.fault:
                break
            *lines, rest = (rest + part).split(b"\n")
            rest = rest[: len(self._mark) + LONGEST_LINE + 1]
            for line in lines:
                said = _object(line[len(self._mark) :] if line.startswith(self._mark) else b"")
                if said is not None:
                    answers.append(said)
                    deadline = time.monotonic() + seconds
                elif line.startswith(b'{"fault"') and not answers:
                    self.fault = str((_object(line) or {}).get("fault"))[:300]
        return answers[:wanted]


def _object(line: bytes) -> dict[str, Any] | None:
    """A line of JSON; None for anything else that a check wrote into the channel."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
