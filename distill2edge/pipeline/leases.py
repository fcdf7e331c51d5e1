"""Who is at work in a shared store: leases, where files on one machine have locks.

    leases/LABEL/000000000007    the newest number is held by who has written it

The holder writes the next number now and then; who waits takes a lease over by writing the next number itself, once it
has seen the same one for as long as the lease says, by its own stopwatch. The server lets one of them write it. So no
two clocks are ever compared, and a machine that slept finds that it has lost its lease. Work may then be done twice;
what is published is decided elsewhere (`published.py`), whoever holds a lease.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from uuid import uuid4

from distill2edge.errors import UserError
from distill2edge.pipeline.object_storage import Storage
from distill2edge.pipeline.series import Series
from distill2edge.util.progress import Progress

LEASE_S = 120.0
"""After which a holder that says nothing has lost its lease: far above a pause of the network or of the interpreter."""
GC = "gc"
RUN = "run-"
_FOLDER = "leases"
_LONGEST_S = 3600.0  # that a lease of another machine may claim
_RENEWALS = 4  # in the time of a lease
_POLL_S = 3.0
_LONGEST_WAIT_S = 10.0


@dataclass(frozen=True)
class Clock:
    """A stopwatch, and a wait."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Held:
    """A lease that is held, as far as its holder knows.

    Attributes:
        id: of this holding, in every number that it writes.
        number: the newest that was written.
        lost: whether another has taken it over.
    """

    label: str
    id: str
    number: int = 0
    lost: bool = False


@dataclass
class Watched:
    """A lease of another, as one that waits has seen it."""

    number: int
    since: float
    lasts: float
    host: str
    owner: str


@dataclass(frozen=True)
class Leases:
    """The leases of one shared store.

    Attributes:
        owner: the directory that this machine works in. What is built there, one process builds at a time (file locks),
            so a lease that it finds of its own is one of a process that was killed.
        lasts: seconds, of a lease that is not renewed.
        renews: whether a thread renews what is held.
    """

    storage: Storage
    owner: str = ""
    lasts: float = LEASE_S
    clock: Clock = field(default_factory=Clock)
    renews: bool = True

    @contextmanager
    def building(self, label: str, progress: Progress, renewed: Callable[[], None] = lambda: None) -> Iterator[Held]:
        """Held by the one machine that makes an artifact; others wait, and say so.

        Args:
            renewed: called with each renewal, and once before the lease is given back.
        """
        with self._held(label, progress, f"making {label}", renewed) as held:
            self._let_gc_end(progress)
            yield held

    @contextmanager
    def in_use(self, progress: Progress) -> Iterator[None]:
        """A run goes on: nothing is deleted from the store."""
        with self._held(f"{RUN}{uuid4().hex[:16]}", progress, "running", lambda: None):
            self._let_gc_end(progress)
            yield

    @contextmanager
    def collecting(self, progress: Progress) -> Iterator[str]:
        """The one garbage collection: who is at work in the store, in words; empty where nobody is.

        Leases of those that have died are watched for as long as they last, and removed.
        """
        with self._held(GC, progress, "collecting garbage", lambda: None):
            yield self.at_work(progress)

    # --- holding --------------------------------------------------------------------

    @contextmanager
    def _held(self, label: str, progress: Progress, doing: str, renewed: Callable[[], None]) -> Iterator[Held]:
        held = Held(label, uuid4().hex)
        self._acquire(held, progress, doing)
        stop = threading.Event()
        thread = threading.Thread(target=self._renew, args=(held, stop, renewed), daemon=True, name=f"lease {label}")
        if self.renews:
            thread.start()
        try:
            yield held
        finally:
            stop.set()
            if self.renews:
                thread.join(_LONGEST_WAIT_S)  # a server that is silent keeps nobody from ending
            with suppress(UserError, OSError):  # the work's own end is what counts; the lease ends by itself
                renewed()
            with suppress(UserError):
                self._series(label).delete(held.number)
            if held.lost:
                progress.warn(f"another machine took {label} over meanwhile: this one was silent for too long")

    def _acquire(self, held: Held, progress: Progress, doing: str) -> None:
        """Wait until the lease is ours."""
        label, series, watched = held.label, self._series(held.label), None
        while True:
            numbers = series.numbers()
            newest = max(numbers, default=0)
            now = self.clock.now()
            if newest and (watched is None or watched.number != newest):
                first = watched is None
                watched = self._watch(label, newest, now)
                if first and not self._is_over(label, watched, now):
                    progress.say(f"{watched.host} is {doing}: waiting for it")
            if watched is None or not newest or self._is_over(label, watched, now):
                number = newest + 1
                if series.append(number, self._words(held, number)):
                    if series.newest() == number:
                        if watched is not None and newest and watched.owner != self.owner:
                            progress.say(f"{watched.host} has been silent for too long: this machine goes on")
                        for old in numbers:
                            series.delete(old)
                        held.number = number
                        return
                    series.delete(number)  # it slept between the look and the writing
            self.clock.sleep(min(_POLL_S, self.lasts / _RENEWALS))

    def _is_over(self, label: str, watched: Watched, now: float) -> bool:
        """Whether the holder of a lease is surely dead, or may be taken for dead."""
        own = label != GC and watched.owner == self.owner != ""
        return own or now - watched.since >= watched.lasts

    def renew(self, held: Held) -> None:
        """Write the next number of a lease, or find that another has."""
        series = self._series(held.label)
        number = held.number + 1
        if not series.append(number, self._words(held, number)) or series.newest() != number:
            held.lost = True
            return
        series.delete(held.number)
        held.number = number

    def _renew(self, held: Held, stop: threading.Event, renewed: Callable[[], None]) -> None:
        while not stop.wait(self.lasts / _RENEWALS):
            with suppress(UserError, OSError):  # a server that is away for a moment: the next time
                self.renew(held)
                if held.lost:
                    return
                renewed()

    # --- others ---------------------------------------------------------------------

    def at_work(self, progress: Progress) -> str:
        """A holder of a lease that is alive, in words; empty where there is none. Nobody waits for who looks."""
        seen: dict[str, Watched] = {}
        said = False
        while True:
            newest = {label: number for label, number in self._newest().items() if label != GC}
            now = self.clock.now()
            for label, number in newest.items():
                if label in seen and seen[label].number != number:
                    what = "running" if label.startswith(RUN) else f"making {label}"
                    return f"{seen[label].host} is {what}"
                seen.setdefault(label, self._watch(label, number, now))
            dead = [label for label in newest if now - seen[label].since >= seen[label].lasts]
            for label in dead:
                self._series(label).delete(newest[label])
            left = [seen[label] for label in newest if label not in dead]
            if not left:
                return ""
            if not said:
                longest = max(each.lasts for each in left)
                progress.say(f"leases are held: watching for {longest:.0f} s whether their holders live")
                said = True
            self.clock.sleep(min(_POLL_S, *(each.lasts / _RENEWALS for each in left)))

    def _let_gc_end(self, progress: Progress) -> None:
        """Wait while garbage is collected: it has looked for leases before, or sees ours."""
        watched, series = None, self._series(GC)
        while number := series.newest():
            now = self.clock.now()
            if watched is None or watched.number != number:
                if watched is None:
                    progress.say("garbage is collected in the store: waiting for it")
                watched = self._watch(GC, number, now)
            if now - watched.since >= watched.lasts:
                series.delete(number)
                return
            self.clock.sleep(min(_POLL_S, watched.lasts / _RENEWALS))

    def _newest(self) -> dict[str, int]:
        """The newest number of every lease, by label."""
        found: dict[str, int] = {}
        for name in self.storage.entries(_FOLDER):
            label, _, number = name.rpartition("/")
            if label and number.isdecimal():
                found[label] = max(found.get(label, 0), int(number))
        return found

    def _watch(self, label: str, number: int, now: float) -> Watched:
        """What a lease says of itself; one that cannot be read is taken for one of ours."""
        host, owner, lasts = "another machine", "", self.lasts
        with suppress(ValueError, TypeError, KeyError):
            told = json.loads(self._series(label).read(number) or b"")
            said = float(told["lasts"])
            lasts = said if 0 < said <= _LONGEST_S else _LONGEST_S
            host, owner = str(told["host"])[:80], str(told["owner"])
        return Watched(number, now, lasts, host, owner)

    def _series(self, label: str) -> Series:
        return Series(self.storage, f"{_FOLDER}/{label}")

    def _words(self, held: Held, number: int) -> bytes:
        told = {"id": held.id, "number": number, "owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(),
                "lasts": self.lasts}  # fmt: skip
        return json.dumps(told).encode()
