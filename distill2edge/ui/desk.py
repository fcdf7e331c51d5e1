"""The two sides of the try page: on each at most one file in memory, in a process of its own, and what was said.

The sides answer one after the other, so that each has the machine to itself and its tokens/s mean something. All of it
runs in one thread beside the page, as long as the desk is there: Linux ends a worker with the thread that started it.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.ui.runs import File
from distill2edge.util.isolate import how_ended, last_words, worker_environment
from distill2edge.util.threads import available_threads, spin_briefly

Document = dict[str, Any]
SIDES = ("left", "right")
AT_WORK = ("waiting", "loading", "writing")
WORKER = ("-m", "distill2edge.ui.worker")
_PATIENCE_S = 3.0
"""How long a worker may go on after it was asked to stop."""


@dataclass(frozen=True)
class Turn:
    """A question to one side, and its answer as far as it is there.

    Attributes:
        state: `waiting`, `loading`, `writing`, `done`, `stopped` or `failed`.
        text: of what is written.
        found: the worker's last word, `worker.answer`.
        load_s: seconds that the file took to open, where it was opened for this.
    """

    asked: str
    pair: str | None = None
    state: str = "waiting"
    text: str = ""
    tokens: int = 0
    found: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    load_s: float | None = None

    @property
    def kind(self) -> str:
        """Of the answer, `worker.answer`; empty until it is whole."""
        return str(self.found.get("kind", ""))

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first, over the time from the first to the last."""
        time = self.found.get("decode_s") or 0.0
        return (self.tokens - 1) / time if self.tokens > 1 and time > 0 else None


@dataclass(frozen=True)
class Side:
    """What one side shows: its file, what that is, and the turns of the chat."""

    file: File | None = None
    opened: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()


class Desk:
    """Both sides. Its methods may be called by any thread.

    Attributes:
        changes: grows with each change, for those who wait for one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sides = {name: Side() for name in SIDES}
        self._workers: dict[str, _Worker] = {}
        self._jobs: queue.Queue[Document | None] = queue.Queue()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._stop, self._closed = False, False
        self.changes = 0

    def sides(self) -> dict[str, Side]:
        """Both, as they stand."""
        with self._lock:
            return dict(self._sides)

    @property
    def busy(self) -> bool:
        """Whether a side is at work."""
        return not self._idle.is_set()

    def ask(self, files: Mapping[str, File | None], text: str, pair: str | None, settings: Document) -> None:
        """Put one text to the files; returns at once. Another file on a side closes the one before, and its chat.

        Args:
            settings: `max_tokens`, `temperature` and `seed`.

        Raises:
            UserError: no file, no text, or the sides are still at work.
        """
        if not text.strip():
            raise UserError("there is no text to answer", fix="write one into the box")
        if not any(files.values()):
            raise UserError("no file is chosen", fix="choose a file for the left or the right side")
        with self._lock:
            if self.busy or self._closed:
                raise UserError("the files are still at work", fix="wait for them, or stop them")
            self._stop = False
            for name in SIDES:
                self._seat(name, files.get(name), Turn(text, pair))
            self.changes += 1
            self._idle.clear()
            self._jobs.put(dict(settings))

    def _seat(self, name: str, file: File | None, turn: Turn) -> None:
        side = self._sides[name]
        if file is None or side.file is None or side.file.path != file.path:
            self._evict(name)
            side = Side(file)
        self._sides[name] = replace(side, turns=(*side.turns, turn)) if file else Side()

    def stop(self) -> None:
        """End what is at work; what was written stays."""
        with self._lock:
            self._stop = True
            at_work = [name for name in SIDES if self._turn(name).state in ("loading", "writing")]
            workers = [self._workers[name] for name in at_work if name in self._workers]
        for worker in workers:
            worker.stop()

    def clear(self) -> None:
        """Forget what was said; the files stay in memory."""
        self.stop()
        self._idle.wait(2 * _PATIENCE_S)
        with self._lock:
            if self.busy:
                return
            self._sides = {name: replace(side, turns=()) for name, side in self._sides.items()}
            self.changes += 1

    def close(self) -> None:
        """End everything."""
        with self._lock:
            self._closed = self._stop = True
            for worker in self._workers.values():
                worker.kill()
        self._jobs.put(None)
        self._thread.join(timeout=10)
        for name in SIDES:
            self._evict(name)

    def _evict(self, name: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.close()

    def _turn(self, name: str) -> Turn:
        turns = self._sides[name].turns
        return turns[-1] if turns else Turn("", state="done")

    def _change(self, name: str, *, opened: Mapping[str, Any] | None = None, **turn: Any) -> None:
        with self._lock:
            side = self._sides[name]
            self._sides[name] = replace(
                side, opened=side.opened if opened is None else opened,
                turns=(*side.turns[:-1], replace(side.turns[-1], **turn)),
            )  # fmt: skip
            self.changes += 1

    # --- the thread ---------------------------------------------------------------

    def _work(self) -> None:
        while (settings := self._jobs.get()) is not None:
            self._run(settings)
            self._idle.set()

    def _run(self, settings: Document) -> None:
        for name in SIDES:
            side = self.sides()[name]
            if side.file is None:
                continue
            if self._stop:
                self._change(name, state="stopped")
                continue
            try:
                worker = self._worker(name, side.file)
                self._answer(name, worker, settings)
            except _Gone as gone:
                self._evict(name)
                self._change(name, state="stopped" if self._stop else "failed", error="" if self._stop else str(gone))
            except Exception as error:  # a process that cannot be started, or a fault of ours: the page goes on
                self._evict(name)
                self._change(name, state="failed", error=f"{type(error).__name__}: {error}")

    def _worker(self, name: str, file: File) -> _Worker:
        worker = self._workers.get(name)
        if worker is not None and worker.alive:
            return worker
        self._evict(name)
        self._change(name, state="loading")
        worker = _Worker(file.path)
        with self._lock:
            self._workers[name] = worker
            stop = self._stop
        if stop:  # asked for before there was anything to stop
            worker.kill()
        self._change(name, opened=worker.opened(), load_s=worker.seconds)
        return worker

    def _answer(self, name: str, worker: _Worker, settings: Document) -> None:
        self._change(name, state="writing")
        text = ""
        for message in worker.ask(_messages(self.sides()[name]), self._turn(name).pair, settings):
            if "piece" in message:
                text += str(message["piece"])
                self._change(name, text=text, tokens=int(message["tokens"]))
            elif "end" in message:
                found = message["end"]
                self._change(name, found=found, state="stopped" if found.get("stopped") else "done")
            else:
                self._change(name, state="failed", error=str(message.get("error", "no reason given")))


def _messages(side: Side) -> list[Document]:
    """The chat so far, of turns that were answered, and the question."""
    found: list[Document] = []
    for turn in side.turns[:-1]:
        if turn.text and turn.state in ("done", "stopped"):
            found += [{"role": "user", "content": turn.asked}, {"role": "assistant", "content": turn.text}]
    return [*found, {"role": "user", "content": side.turns[-1].asked}]


class _Gone(Exception):
    """A worker that gives no more; its message says why."""


class _Worker:
    """A process with one model."""

    def __init__(self, path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="distill2edge-ui-")
        self._log = Path(self._folder.name) / "log"
        environment = worker_environment(available_threads())
        spin_briefly(environment)  # the page, and a run that is followed, need the cores too
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *WORKER, str(path)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
                encoding="utf-8",
            )  # fmt: skip
        self._asked = 0
        self._answering = False
        self.seconds = 0.0

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def opened(self) -> Document:
        """What the file is, as soon as it is open.

        Raises:
            _Gone: it cannot be opened.
        """
        start = time.monotonic()
        for message in self._read():
            if "opened" in message:
                self.seconds = time.monotonic() - start
                return dict(message["opened"])
            raise _Gone(str(message.get("error", "no reason given")))
        raise self._gone()

    def ask(self, messages: list[Document], pair: str | None, settings: Document) -> Iterator[Document]:
        """Its messages up to the last one of this answer.

        Raises:
            _Gone: the process ended.
        """
        self._asked += 1
        self._answering = True
        try:
            self._send({"ask": self._asked, "messages": messages, "pair": pair, **settings})
            for message in self._read():
                yield message
                if "piece" not in message:
                    return
            raise self._gone()
        finally:
            self._answering = False

    def stop(self) -> None:
        """Ask it to end its answer; a process that does not is ended."""
        if not self._answering:
            self.kill()
            return
        asked = self._asked
        try:
            self._send({"stop": asked})
        except _Gone:
            return

        def too_long() -> None:
            if self._answering and self._asked == asked:
                self.kill()

        timer = threading.Timer(_PATIENCE_S, too_long)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End it at once."""
        if self.alive:
            self._process.kill()

    def close(self) -> None:
        """End it, and what it left."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not written yet goes nowhere
                if stream is not None:
                    stream.close()
        self._folder.cleanup()

    def _send(self, message: Document) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._gone() from error

    def _read(self) -> Iterator[Document]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)

    def _gone(self) -> _Gone:
        code = self._process.wait()
        return _Gone("\n".join(filter(None, (how_ended(code), last_words(self._log)))))
