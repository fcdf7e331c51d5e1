"""The product's side of the sandbox: start the guard, ask it, start it again when it dies."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, get_args

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.verifiers.verifier import Group, Outcome, Verdict, one_line

_START_S = 60.0  # seconds that the jail may take to start: it imports jsonschema, on a machine that may be busy
_ROWS = 64  # rows that are sent at once
_GRACE_S = 15.0  # seconds over a check's own limit after which the guard itself counts as hung

ACCEPT_OPTION = "--accept-weak-sandbox"
"""Of the command line: never a part of a recipe, which may come from elsewhere."""

weak_sandbox_accepted: ContextVar[bool] = ContextVar("weak_sandbox_accepted", default=False)
"""Whether the user's own command line lets `python` checks run where the kernel allows no namespaces."""


class Sandboxed:
    """A verifier whose checks run in processes of their own, each with limits.

    Args:
        name: of the verifier.
        settings: for `jail.guard`: the kind's own, `seconds`, `memory_mb`, `file_mb` and `share`; `namespaces` False
            does without them, as where the kernel allows none.

    Attributes:
        held: what holds network, files and processes: namespaces with a filter of system calls, or the filter alone.

    Raises:
        EnvironmentFault: the process for the checks does not start, or code would run without namespaces and nobody
            accepted that.
    """

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._rest, self._base = b"", ""
        self.held: dict[str, str] = {}
        self._open()

    def _open(self) -> None:
        """With namespaces where the kernel allows them; without, if that is enough for this kind, or accepted."""
        if not hasattr(os, "fork"):
            raise EnvironmentFault(
                f"the checks of {self.name!r} need fork, which {sys.platform} does not have",
                where="signal.verify",
                fix="run it on Linux (WSL 2 will do) or, for checks that run no code, on macOS",
            )
        runs_code = self._settings["kind"] == "python"
        if runs_code and not sys.platform.startswith("linux"):
            raise _refused(f"nothing on {sys.platform} holds the code of a check")
        fault = "switched off"
        if self._settings.get("namespaces", True):
            fault = self._start(namespaces=True)
        if fault and runs_code and not weak_sandbox_accepted.get():
            raise _refused(f"the kernel allows no namespaces here ({fault})", weak=True)
        if fault and (fault := self._start(namespaces=False)):
            raise EnvironmentFault(
                f"the process for the checks of {self.name!r} does not start: {fault}", where="signal.verify"
            )

    def verify(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """As `base.Verifier.verify`. A response that a prompt got twice is checked once."""
        rows = list(dict.fromkeys((g.prompt, response, g.reference) for g in groups for response in g.responses))
        found: dict[tuple[str, str, str], Verdict] = {}
        for begin in range(0, len(rows), _ROWS):
            part = rows[begin : begin + _ROWS]
            found.update(zip(part, self._checks(part), strict=True))
        return [[found[group.prompt, response, group.reference] for response in group.responses] for group in groups]

    def close(self) -> None:
        """End the jail."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()  # it ends by itself
            process.wait(timeout=5)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait()
        process.stdout.close()
        shutil.rmtree(self._base, ignore_errors=True)

    def _checks(self, rows: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        if self._process is None:
            self._open()
        items = [dict(zip(("prompt", "response", "reference"), row, strict=True)) for row in rows]
        said = self._ask(items)
        if said is not None:
            return [_verdict(answer) for answer in said]
        # The jail itself is gone: each row alone, so that the one which does that is found.
        self._kill()
        if len(rows) > 1:
            return [self._checks([row])[0] for row in rows]
        return [Verdict("crashed", "the check took the process that runs it along")]

    def _start(self, namespaces: bool) -> str:
        """Start the guard. Returns why it does not start; empty where it runs."""
        # -I -S: neither the user's site, nor installed packages, nor PYTHONPATH, nor the current directory; an empty
        # environment: no key of an API is in reach.
        here = str(Path(__file__).resolve().parent)
        code = (
            f"import sys; sys.path.insert(0, {here!r}); from jail.guard import main; sys.path.remove({here!r}); main()"
        )
        self._rest, self._base = b"", tempfile.mkdtemp(prefix="distill2edge-check-")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
        given = {**self._settings, "base": self._base, "namespaces": namespaces}
        later = {name: given.pop(name) for name in ("code", "file") if name in given}
        if given["kind"] == "json-schema":
            given["site"] = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        said = self._read(_START_S) if self._write(given) else None
        fault = "" if said is not None else "no last words"
        if said is not None and not (fault := str(said.get("fault") or "")):
            self.held = said["held"]
            self._write(later)
            return ""
        self._process.kill()
        _, errors = self._process.communicate()
        self._process = None
        shutil.rmtree(self._base, ignore_errors=True)
        lines = errors.decode(errors="replace").strip().splitlines()
        return fault if said is not None or not lines else lines[-1]

    def _ask(self, items: list[dict[str, str]]) -> list[dict[str, Any]] | None:
        if not self._write(items):
            return None
        # Twice the limit: in a shared process a row may be tried a second time, alone.
        said = self._read(2 * len(items) * self._settings["seconds"] + _GRACE_S)
        return said if isinstance(said, list) and len(said) == len(items) else None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.close()

    def _write(self, value: Any) -> bool:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def _read(self, seconds: float) -> Any:
        """The next line; None when the jail ends or says nothing in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            part = self._process.stdout.read1(65_536) if ready else b""  # type: ignore[attr-defined]
            if not part:
                return None
            self._rest += part
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)


def require_walls() -> None:
    """For before a run: `python` checks can be isolated here, or the user's command line accepts less.

    Raises:
        EnvironmentFault: neither.
    """
    if (fault := _fault(weak_sandbox_accepted.get())) is not None:
        raise fault


@cache
def _fault(accepted: bool) -> EnvironmentFault | None:
    settings = {"kind": "python", "code": "", "file": "", "seconds": 5.0, "memory_mb": 512, "file_mb": 1, "share": 1}
    try:
        Sandboxed("python", settings).close()
    except EnvironmentFault as fault:
        return fault
    return None


def _refused(why: str, weak: bool = False) -> EnvironmentFault:
    fix = "run it on Linux with user namespaces: a container or a virtual machine that allows them"
    if weak:
        fix += f"; or, for code that you have read, {ACCEPT_OPTION}: a filter of system calls alone then holds it"
    return EnvironmentFault(f"`python` checks do not run: {why}", where="signal.verify", fix=fix)


def _verdict(said: dict[str, Any]) -> Verdict:
    outcome, answer = said.get("outcome"), said.get("answer")
    if outcome not in get_args(Outcome):
        return Verdict("crashed", "the check wrote something other than a verdict")
    return Verdict(outcome, one_line(str(said.get("reason") or "")), None if answer is None else str(answer)[:1000])


def check_code(code: str, file: str, where: str) -> None:
    """Refuse a source text that can be no check; nothing of it runs.

    Raises:
        UserError: it does not compile, or defines no `check`.
    """
    import ast

    try:
        tree = ast.parse(code, file)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # a null byte; nested too deeply
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deeply"
        raise UserError(f"not Python: {said}{line}", where=where, fix="correct the code of the check") from error
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
              if isinstance(target, ast.Name)}  # fmt: skip
    if "check" not in names:
        raise UserError(
            "the code defines no function `check`",
            where=where,
            fix="def check(prompt, response, reference): return True or False, or (False, 'why')",
        )


def python_check(name: str, code: str, file: str, limits: dict[str, Any], where: str) -> Sandboxed:
    """`check(prompt, response, reference)` of a source text.

    Raises:
        UserError: it does not compile, or defines no `check`.
    """
    check_code(code, file, where)
    return Sandboxed(name, {"kind": "python", "code": code, "file": file, **limits})
