"""The process that runs a check: walls first, then its rows, one line for each."""

from __future__ import annotations

import ast
import collections
import dataclasses
import json
import os
import re
import signal
import socket
import sys
import types
from typing import Any, NoReturn

from . import walls
from .answer import serve
from .kinds import Check
from .remote import Answer, builtins_of

LONGEST_LINE = 16_384  # bytes: a reason and an answer, every character escaped
_REASON = 300  # characters
_MARK = 16  # random bytes, before every line that is believed

Settings = dict[str, Any]


def run(channel: int, check: Check | None, settings: Settings) -> NoReturn:
    """Never returns. A freshly forked process that has seen no row becomes one that is held, and does its job.

    Args:
        channel: a socket: the job comes from it, answers go to it.
        check: of a kind without code; for kind `python` it comes with the job.
        settings: `memory_mb`, `file_mb`, `seconds`, `share`, `namespaces`, `walls` (False on systems without any).
    """
    code = 1
    try:
        channel = _alone(channel)
        walls.die_with_parent()
        if settings["namespaces"]:
            walls.own_scratch(settings["file_mb"])
        answer = _start_answer(channel, settings) if check is None else None
        _hold(settings)
        _work(channel, check, answer)
        code = 0
    except BaseException as error:  # the last words of a process that has nowhere to raise
        os.write(channel, f"{json.dumps({'fault': f'{type(error).__name__}: {error}'})}\n".encode())
    finally:
        os._exit(code)


def _alone(channel: int) -> int:
    """Every descriptor but the channel is closed; 0, 1 and 2 lead nowhere."""
    kept = os.dup2(channel, 64)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.closerange(3, kept)
    os.closerange(kept + 1, 1 << 20)
    os.dup2(kept, 3)
    os.close(kept)
    return 3


def _start_answer(channel: int, settings: Settings) -> Answer:
    mine, theirs = socket.socketpair()
    mark = os.urandom(_MARK).hex().encode()
    if os.fork() == 0:
        code = 1
        try:
            _hold(settings)
            os.close(channel)
            mine.close()
            _forget_ourselves()
            serve(theirs.detach(), mark)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    return Answer(mine.detach(), mark)


def _hold(settings: Settings) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails with an error that has a name
    if settings["walls"]:
        cpu = settings["seconds"] * settings["share"]
        walls.give_up(settings["memory_mb"], settings["file_mb"], cpu, settings["namespaces"])


def _forget_ourselves() -> None:
    """Nothing of ours can be imported, by name or as `__main__`."""
    package = __name__.split(".")[0]
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")


def _work(channel: int, check: Check | None, answer: Answer | None) -> None:
    with os.fdopen(os.dup(channel), "rb") as stream:
        job = json.loads(stream.readline())
    mark = job["mark"].encode()
    _forget_ourselves()
    if job["probe"]:
        if answer is not None:
            answer.run("exec", "pass", {}, None)
        _tell(channel, mark, {"outcome": "ready"})
    elif answer is not None:
        check = _python(job["code"], job["file"], answer)
    for number, item in enumerate(job["items"]):
        assert check is not None
        said = _run(item, check)
        if answer is not None and answer.ended:
            said["answer ended"] = _ending()
        if number and said["outcome"] not in ("accepted", "rejected"):
            break  # it is tried again in a process of its own
        _tell(channel, mark, said)


def _tell(channel: int, mark: bytes, value: dict[str, Any]) -> None:
    view = memoryview(mark + json.dumps(value).encode()[:LONGEST_LINE] + b"\n")
    while view:
        view = view[os.write(channel, view) :]


def _ending() -> int | None:
    try:
        return os.waitstatus_to_exitcode(os.wait()[1])
    except ChildProcessError:
        return None


def _python(source: str, name: str, answer: Answer) -> Check:
    """The check of a source text, run again, module and all, for each row."""
    code = compile(source, name, "exec")
    own = _texts(code)
    row: dict[str, str] = {}

    def split(text: Any) -> tuple[Any, str]:
        if isinstance(text, str) and text != row["response"] and text in row["reference"]:
            return "", text
        return _split(text, row["response"], own | {row["reference"]})

    names = builtins_of(answer, split)

    def check(prompt: str, response: str, reference: str) -> Any:
        row.update(response=response, reference=reference)
        module = types.ModuleType("check")
        sys.modules["check"] = module
        module.__dict__["__builtins__"] = names
        exec(code, module.__dict__)
        found = module.check(prompt, response, reference)
        if isinstance(found, dict):
            raise TypeError("check returned dict, not a bool")
        return found

    sys.addaudithook(_no_other_way)
    return check


_FENCE = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
"""A block of code in a response."""


def _split(text: Any, response: str, own: set[str]) -> tuple[Any, str]:
    """A text for `exec` as (what comes from elsewhere, what the check put behind it); each may be empty.

    Raises:
        SyntaxError: the first is not whole by itself, so that it would swallow what is behind it.
    """
    if not isinstance(text, str) or text == response:
        return text, ""
    parts = sorted({response.strip(), *map(str.strip, _FENCE.findall(response))} - {""}, key=len, reverse=True)
    part = next((part for part in parts if part in text), None)
    cut = len(text) if part is None else text.rfind(part) + len(part)
    if cut == len(text):  # a part of the response, perhaps: what is known at the end is the check's
        cut = _end_of_the_rest(text, own)
    rest, tests = text[:cut], text[cut:]
    if not rest.strip():
        return "", text
    new_line = rest.endswith("\n") or tests.lstrip(" \t").startswith("\n")
    if not tests.strip() or not new_line or not _parses(tests):
        return text, ""
    ast.parse(rest)
    return rest, tests


def _end_of_the_rest(text: str, own: set[str]) -> int:
    """Where the known pieces begin that a text ends with, each on lines of its own."""
    pieces = sorted({piece.strip() for piece in own} - {""}, key=len, reverse=True)
    rest = text.rstrip()
    while rest:
        found = next((p for p in pieces if rest.endswith(p) and rest[: -len(p)].endswith(("\n", "")[rest == p])), None)
        if found is None:
            break
        rest = rest[: -len(found)].rstrip()
    return len(rest) if rest != text.rstrip() else len(text)


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _texts(code: types.CodeType) -> set[str]:
    """Every literal text in a code object."""
    found: set[str] = set()
    for value in code.co_consts:
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, types.CodeType):
            found |= _texts(value)
    return found


_LIBRARY = os.path.dirname(os.__file__) + os.sep
_WRITE_CODE = (collections.__file__, dataclasses.__file__, __file__, builtins_of.__code__.co_filename)


def _no_other_way(event: str, args: tuple[Any, ...]) -> None:
    """Text runs through the check's own `exec` and `eval`. No wall: it keeps a check from a mistake before it is made.

    `runpy`, an import from the scratch directory, `pickle` and the like would run an answer in the process of the
    check, where it could decide the verdict.
    """
    if event == "exec":
        caller = sys._getframe(1).f_code.co_filename
        name = getattr(args[0], "co_filename", "")
        if not (name.startswith((_LIBRARY, "<frozen ")) or caller in _WRITE_CODE):
            raise PermissionError("a check runs text through its own exec or eval only")
    elif event == "pickle.find_class" and not sys._getframe(1).f_code.co_filename.startswith(_LIBRARY):
        raise PermissionError("a check may not unpickle objects: a pickle is code")


def _run(item: dict[str, str], check: Check) -> dict[str, Any]:
    try:
        found = check(item["prompt"], item["response"], item["reference"])
    except AssertionError as error:
        return {"outcome": "rejected", "reason": f"assertion failed: {_short(error)}".rstrip(": ")}
    except MemoryError:
        return {"outcome": "out of memory"}
    except BaseException as error:  # whatever a check raises, SystemExit too, is its crash: told, not raised
        return {"outcome": "crashed", "reason": f"{type(error).__name__}: {_short(error)}"}
    if isinstance(found, dict):
        return found
    passed, reason = found if isinstance(found, tuple) and len(found) == 2 else (found, "")
    if not isinstance(passed, bool):
        return {"outcome": "crashed", "reason": f"check returned {type(found).__name__}, not a bool"}
    reason = str(reason)[:_REASON] or ("" if passed else "check said no")
    return {"outcome": "accepted" if passed else "rejected", "reason": reason}


def _short(error: BaseException) -> str:
    return str(error)[:_REASON]
