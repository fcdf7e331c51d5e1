"""Whatever the order of two machines' requests, and whichever is killed: one artifact is published, both have it."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_storage import FakeStorage, Objects
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.pipeline import published
from distill2edge.pipeline.artifact import make_key
from distill2edge.pipeline.leases import Clock, Leases
from distill2edge.pipeline.published import Publications, identity
from distill2edge.pipeline.shared_store import SharedStore
from distill2edge.util.progress import SilentProgress

KEY = make_key("data", 1, {"a": 1}, {})
MACHINES = 2
LASTS = 10.0


class Killed(BaseException):
    """As SIGKILL."""


class Turns:
    """Lets one machine make one request at a time, in a given order.

    Args:
        order: numbers of machines, one for each request; then they take turns.
        kills: numbers of requests, at which the machine whose turn it is ends instead.
    """

    def __init__(self, order: list[int], kills: set[int]) -> None:
        self._order, self._kills, self.step = order, kills, 0
        self._waiting: dict[int, threading.Event] = {}
        self._killed: set[int] = set()
        self._live = set(range(MACHINES))
        self._changed = threading.Condition()
        self.time = 0.0

    def wait(self, machine: int) -> None:
        """Until it is this machine's turn."""
        event = threading.Event()
        with self._changed:
            self._waiting[machine] = event
            self._changed.notify_all()
        assert event.wait(60)
        if machine in self._killed:
            raise Killed

    def restarted(self, machine: int) -> None:
        """A killed machine begins anew."""
        self._killed.discard(machine)

    def ended(self, machine: int) -> None:
        """A machine has no more requests."""
        with self._changed:
            self._live.discard(machine)
            self._changed.notify_all()

    def run(self, check: Any) -> None:
        """Give turns until all have ended; `check` is called before each."""
        while True:
            with self._changed:
                assert self._changed.wait_for(lambda: self._waiting.keys() >= self._live, 60)
                if not self._live:
                    return
                check()
                wanted = self._order[self.step] if self.step < len(self._order) else self.step
                live = sorted(self._live)
                machine = live[wanted % len(live)]
                if self.step in self._kills:
                    self._killed.add(machine)
                self.step += 1
                self.time += 1.0
                assert self.step < 5000
                self._waiting.pop(machine).set()


def newest(objects: Objects) -> dict[str, Any] | None:
    records = sorted(name for name in objects.held if "/records/" in name)
    return json.loads(objects.held[records[-1]]) if records else None


def check(objects: Objects) -> None:
    """What a reader would find is whole at every moment."""
    record = newest(objects)
    if record is not None and "withdrawn" not in record:
        held = {name for name in objects.held if f"/{record['folder']}/" in name}
        assert len(held) == len(record["manifest"]["files"]) == 2


def machine_of(root: Path, number: int, objects: Objects, turns: Turns) -> SharedStore:
    storage = FakeStorage(objects, lambda what, name: turns.wait(number))
    store = SharedStore(storage.url, root / str(number), storage=storage)

    def sleep(seconds: float) -> None:
        turns.wait(number)
        turns.time += seconds

    clock = Clock(lambda: turns.time, sleep)
    store.__dict__["leases"] = Leases(storage, store.owner, LASTS, clock, renews=False)
    store._prepared = True
    return store


def work_of(
    root: Path, number: int, objects: Objects, turns: Turns, found: list[Any], built: list[str], forces: bool
) -> None:
    def write(work: Path) -> dict[str, Any]:
        built.append(f"{number} {len(built)}")
        for name in ("a", "b"):
            (work / name).write_text(f"{name} of {built[-1]}")
        return {}

    while True:
        try:
            turns.wait(number)
            store = machine_of(root, number, objects, turns)
            if forces:
                store.forget("data", KEY)
            found.append(store.build("data", KEY, {}, {}, 0, write, SilentProgress()))
            break
        except Killed:
            turns.restarted(number)
        except BaseException as error:
            found.append(error)
            break
    turns.ended(number)


@settings(max_examples=20)
@given(
    order=st.lists(st.integers(0, MACHINES - 1), max_size=120),
    kills=st.sets(st.integers(0, 60), max_size=3),
    forces=st.sets(st.integers(0, MACHINES - 1)),
)
def test_one_artifact_comes_of_any_interleaving(order: list[int], kills: set[int], forces: set[int]) -> None:
    objects, turns, found, built = Objects(), Turns(order, kills), [], []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "_AT_ONCE", 1)  # a machine's requests come after each other
        threads = [
            threading.Thread(target=work_of, args=(Path(folder), n, objects, turns, found, built, n in forces))
            for n in range(MACHINES)
        ]
        for thread in threads:
            thread.start()
        turns.run(lambda: check(objects))
        for thread in threads:
            thread.join(60)
        assert forces or len([name for name in objects.held if "/records/" in name]) == 1
        published_now = Publications(FakeStorage(objects)).find("data", KEY)
        assert published_now.manifest is not None
        assert not published_now.fault
        assert not [artifact for artifact in found if isinstance(artifact, BaseException)]
        assert len(found) == MACHINES
        if forces:  # one may have ended before the other began anew: the next run of both has the newest
            stores = [SharedStore(f"memory://{n}", Path(folder, str(n)), storage=FakeStorage(objects)) for n in (0, 1)]
            for store in stores:
                store._prepared = True
            found = [store.get("data", KEY) for store in stores]
        for artifact in found:
            assert artifact is not None
            assert identity(artifact.manifest) == identity(published_now.manifest)
            place = f"artifacts/data/{KEY[:20]}/{published_now.folder}"
            for name in ("a", "b"):
                assert (artifact.path / name).read_bytes() == objects.held[f"{place}/{name}"]
        assert 1 <= len(built) <= MACHINES + len(kills)
