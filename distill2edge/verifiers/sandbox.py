"""The parent's side of the jail: start it, ask it, start it again when it dies."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.verifiers.base import Group, Outcome, Verdict, one_line

_START_S = 60.0  # seconds that the jail may take to start: it imports jsonschema, on a machine that may be busy
_ROWS = 64  # rows that are sent at once
_GRACE_S = 15.0  # seconds over a check's own limit after which the jail itself counts as hung


class Sandboxed:
    """A verifier whose checks run in processes of their own, each with limits.

    Args:
        name: of the verifier.
        settings: for `jail.main`: the kind's own (`inside.checker`), `seconds`, `memory_mb`, `file_mb` and `share`.

    Attributes:
        held: what holds network, files and processes: namespaces, or the audit hook alone.
    """

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._rest, self._base = b"", ""
        self.held: dict[str, str] = {}
        self._start()

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
            self._start()
        items = [dict(zip(("prompt", "response", "reference"), row, strict=True)) for row in rows]
        said = self._ask(items)
        if said is not None:
            return [_verdict(answer) for answer in said]
        # The jail itself is gone: each row alone, so that the one which does that is found.
        self._kill()
        if len(rows) > 1:
            return [self._checks([row])[0] for row in rows]
        return [Verdict("crashed", "the check took the process that runs it along")]

    def _start(self) -> None:
        # -I: neither the user's site nor PYTHONPATH nor the current directory is in reach of a check; an empty
        # environment: no key of an API is either.
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.append({root!r}); from distill2edge.verifiers.jail import main; main()"
        self._rest, self._base = b"", tempfile.mkdtemp(prefix="distill2edge-check-")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            cwd="/",
        )
        if not self._write({**self._settings, "base": self._base}) or (held := self._read(_START_S)) is None:
            self._process.kill()
            _, errors = self._process.communicate()
            shutil.rmtree(self._base, ignore_errors=True)
            lines = errors.decode(errors="replace").strip().splitlines() or ["no last words"]
            raise EnvironmentFault(
                f"the process for the checks of {self.name!r} does not start: {lines[-1]}", where="signal.verify"
            )
        assert self._process.stderr is not None
        self._process.stderr.close()
        self.held = held

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


def _verdict(said: dict[str, Any]) -> Verdict:
    outcome, answer = said.get("outcome"), said.get("answer")
    if outcome not in get_args(Outcome):
        return Verdict("crashed", "the check wrote a verdict that is none")
    return Verdict(outcome, one_line(str(said.get("reason") or "")), None if answer is None else str(answer))


def python_check(name: str, code: str, file: str, limits: dict[str, Any], where: str) -> Sandboxed:
    """`check(prompt, response, reference)` of a source text.

    Raises:
        UserError: it does not compile, or defines no `check`.
    """
    import ast

    try:
        tree = ast.parse(code, file)
    except SyntaxError as error:
        raise UserError(
            f"not Python: {error.msg} (line {error.lineno})", where=where, fix="mend the code of the check"
        ) from error
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
              if isinstance(target, ast.Name)}  # fmt: skip
    if "check" not in names:
        raise UserError(
            "the code defines no function `check`",
            where=where,
            fix="def check(prompt, response, reference): return True or False, or (False, 'why')",
        )
    return Sandboxed(name, {"kind": "python", "code": code, "file": file, **limits})
