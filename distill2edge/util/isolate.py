"""A worker in a process of its own: a crash becomes a value with the process's last words."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from distill2edge.errors import EXIT_ENVIRONMENT, EXIT_USAGE, UserError
from distill2edge.util.files import disk_full, disk_is_full, room_is_out, write_text
from distill2edge.util.interrupts import NO_BACKTRACE, PARENT, die_with_parent

SPAWNED_AT = "DISTILL2EDGE_SPAWNED_AT"
"""Environment variable of a worker: `time.monotonic()` of the parent just before it was started."""

_LAST_LINES, _LAST_CHARACTERS = 12, 1500


@dataclass(frozen=True)
class Crash:
    """A worker that gave no result.

    Attributes:
        words: how it ended and the end of what it wrote to standard error.
        environment: whether the machine lacks something, rather than the model file.
    """

    words: str
    environment: bool = False


def run_worker(
    module: str,
    spec: Mapping[str, Any],
    work: Path,
    name: str,
    *,
    threads: int,
    silence_s: float = 1800.0,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any] | Crash:
    """Run `python -m MODULE SPEC.json` and return what it wrote to `spec["result"]`.

    A result already there, made from the same spec, is returned without a run.

    Args:
        module: a module with a `main` that calls `serve`.
        spec: JSON for the worker. `result` is added: where it writes.
        work: directory for `NAME.json` and `NAME.log`; `NAME.spec.json` stays where there is no result.
        name: a file name.
        threads: of the worker's pools.
        silence_s: how long a worker may say nothing before it counts as hung and is ended.
        on_progress: called with the count of steps done since the last call.
    """
    work.mkdir(parents=True, exist_ok=True)
    result = work / f"{name}.json"
    fingerprint = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    spec = {**spec, "result": str(result)}
    path = work / f"{name}.spec.json"
    kept = read_result(result, fingerprint)
    if kept is not None:
        path.unlink(missing_ok=True)  # of a try that was killed right after its result
        return kept
    write_text(path, json.dumps({**spec, "fingerprint": fingerprint}))
    log = work / f"{name}.log"
    ended = _run([sys.executable, "-m", module, str(path)], log, threads, silence_s, on_progress)
    kept = read_result(result, fingerprint)
    if ended.code == 0 and kept is not None:
        path.unlink()  # it names folders of this machine, and an artifact may be moved
        return kept
    if room_is_out(work):  # a library that cannot write may end in any way: no verdict on the file
        raise disk_is_full(work)
    how = f"said nothing for {silence_s:.0f} s and was ended" if ended.hung else how_ended(ended.code)
    last = last_words(log)
    # A UserError's text says all; how the process ended would be noise.
    told = ended.code in (EXIT_USAGE, EXIT_ENVIRONMENT) and last
    words = last if told else f"{how}\n{last}" if last else how
    return Crash(words.strip(), environment=ended.code == EXIT_ENVIRONMENT and not ended.hung)


def read_result(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """A finished worker's result, if it was made from the spec with this fingerprint."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("fingerprint") != fingerprint:
        return None
    return document["result"] if isinstance(document.get("result"), dict) else None


def serve(work: Callable[[dict[str, Any], Callable[[int], None]], dict[str, Any]], argv: list[str]) -> None:
    """The whole of a worker's `main`: read the spec, work, write the result.

    Args:
        work: takes the spec and a function to report steps done with; returns the result.
        argv: `[SPEC.json]`.
    """
    die_with_parent(int(os.environ[PARENT]) if PARENT in os.environ else None)
    spec = json.loads(Path(argv[0]).read_text())
    channel = protocol_channel()

    def report(steps: int) -> None:
        channel.write(f"{json.dumps({'done': steps})}\n")
        channel.flush()

    try:
        outcome = work(spec, report)
        text = json.dumps({"fingerprint": spec["fingerprint"], "result": outcome})
        write_text(Path(spec["result"]), text)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if not disk_full(error):
            raise
        fault = disk_is_full(Path(spec["result"]).parent)
        print(fault, file=sys.stderr, flush=True)
        sys.exit(fault.exit_code)


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker: this package, so many threads, no network, no debugger, and whose child it is."""
    root = str(Path(__file__).resolve().parents[2])
    return {
        **os.environ,
        **NO_BACKTRACE,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        PARENT: str(os.getpid()),
    }


def protocol_channel() -> TextIO:
    """The worker's standard output for its protocol alone: what libraries write there goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


@dataclass(frozen=True)
class _Ended:
    code: int
    hung: bool


def _run(
    command: list[str], log: Path, threads: int, silence_s: float, on_progress: Callable[[int], None] | None
) -> _Ended:
    environment = worker_environment(threads)
    with log.open("wb") as errors:
        environment[SPAWNED_AT] = repr(time.monotonic())
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        lines: queue.Queue[bytes | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        reader.start()
        hung = False
        try:
            while (line := lines.get(timeout=silence_s)) is not None:
                if on_progress and (steps := _steps(line)):
                    on_progress(steps)
            process.wait(timeout=silence_s)
        except (queue.Empty, subprocess.TimeoutExpired):
            hung = True
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            reader.join()
    return _Ended(process.returncode, hung)


def _read(process: subprocess.Popen[bytes], lines: queue.Queue[bytes | None]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _steps(line: bytes) -> int:
    try:
        return int(json.loads(line)["done"])
    except (ValueError, KeyError, TypeError):
        return 0  # a library's own line


def how_ended(code: int) -> str:
    """The exit code of a worker without a result, in words."""
    if code >= 0:
        return f"the process ended with exit code {code}" if code else "the process ended without a result"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = {"SIGKILL": ": out of memory, most likely", "SIGBUS": ": the disk is full, most likely"}.get(name, "")
    return f"the process was killed by {name}{hint}"


def last_words(log: Path) -> str:
    """The last lines that a worker wrote to its log."""
    text = log.read_text(errors="replace")[-20_000:]
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:]
