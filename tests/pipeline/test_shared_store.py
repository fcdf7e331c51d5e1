"""A store that machines share: one builds and all have it, damage is mended, what is lost or withdrawn is told."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_storage import FakeStorage, Objects
from made_stage import MadeStage
from s3_server import BUCKET, Server

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.artifact import make_key, read_manifest
from distill2edge.pipeline.published import identity
from distill2edge.pipeline.run_stages import run_stages
from distill2edge.pipeline.shared_store import SharedStore, directory_of
from distill2edge.pipeline.stage_files import Files
from distill2edge.pipeline.store import Store
from distill2edge.running import shared_housekeeping
from distill2edge.util.progress import SilentProgress

KEY = make_key("data", 1, {"a": 1}, {})
URL = "memory://models/x"


class Told(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def warn(self, line: str) -> None:
        self.warned.append(line)


class World:
    """Machines around one storage."""

    def __init__(self, root: Path) -> None:
        self.root, self.objects = root, Objects()

    def machine(self, name: str, before: Callable[[str, str], None] = lambda what, name: None) -> SharedStore:
        return SharedStore(URL, self.root / name, lasts=0.4, storage=FakeStorage(self.objects, before))

    def names(self, begin: str = "artifacts") -> list[str]:
        return [name for name in self.objects.held if name.startswith(begin)]

    def file(self, end: str) -> str:
        return next(name for name in self.names() if name.endswith(end))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def write_hello(work: Path) -> dict[str, Any]:
    (work / "sub").mkdir(exist_ok=True)
    (work / "sub" / "hello.txt").write_text("hello")
    (work / "weights").write_bytes(os.urandom(64))
    return {"rows": 3}


def refuse(work: Path) -> dict[str, Any]:
    raise AssertionError("it is there already")


def build(store: Store, write: Any = write_hello, progress: Any = None, files: Files = Files()) -> Any:  # noqa: B008
    return store.build("data", KEY, {}, {"a": 1}, 0, write, progress or SilentProgress(), files)


def contents(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "manifest.json"
    }


def same(first: Any, second: Any) -> bool:
    return identity(first.manifest) == identity(second.manifest) and contents(first.path) == contents(second.path)


def test_a_second_machine_has_what_the_first_built(s3: Server, tmp_path: Path) -> None:
    """Over a real S3 interface; the tests below order their faults from a storage in memory."""
    one, two = (SharedStore(f"s3://{BUCKET}/team", tmp_path / name) for name in ("one", "two"))
    assert two.peek("data", KEY) is None
    made = build(one)
    seen = two.peek("data", KEY)
    assert seen is not None
    assert not seen.path.exists()  # nothing was brought here to be looked at
    assert seen.size == made.size
    found = build(two, refuse)
    assert found.path != made.path
    assert same(made, found)
    assert read_manifest(found.path) == found.manifest
    mine, theirs = (entry["mtime_ns"] for art in (found, made) for entry in art.manifest["files"][:1])
    assert mine != theirs  # times are those of the files here, so that nothing is hashed again
    assert two.holds("data", KEY)
    assert s3.names("team/leases") == s3.names("team/probes") == []
    s3.door.asked.clear()
    assert two.get("data", KEY) is not None  # prepared: it asks what is published
    assert s3.door.asked
    s3.door.asked.clear()
    again = SharedStore(f"s3://{BUCKET}/team", tmp_path / "two")
    assert again.holds("data", KEY)
    assert again.get("data", KEY) is not None  # all is here: no server is asked
    assert not s3.door.asked


def stage(calls: list[str], content: Callable[[], str] = lambda: "x") -> MadeStage:
    def write(work: Path, inputs: Any, progress: Any) -> dict[str, Any]:
        calls.append("data")
        (work / "out").write_text(content())
        return {}

    return MadeStage("data", write, {"a": 1})


def test_a_run_on_another_machine_runs_nothing(world: World) -> None:
    calls: list[str] = []
    run_stages([stage(calls)], world.machine("one"), SilentProgress())
    done = run_stages([stage(calls)], world.machine("two"), SilentProgress())
    assert calls == ["data"]
    assert done[0].cached
    assert not world.names("leases")


def test_a_forced_stage_is_made_again_for_all(world: World) -> None:
    calls: list[str] = []
    old = run_stages([stage(calls)], world.machine("one"), SilentProgress())[0].artifact
    run_stages([stage(calls)], world.machine("two"), SilentProgress())
    new = run_stages([stage(calls, lambda: "new")], world.machine("two"), SilentProgress(), frozenset({"data"}))
    assert calls == ["data", "data"]
    one = world.machine("one")
    one.prepare()
    found = one.get("data", old.key)
    assert found is not None
    assert same(found, new[0].artifact)
    assert (found.path / "out").read_text() == "new"


def test_what_was_withdrawn_is_not_published_again_by_who_still_has_it(world: World) -> None:
    one, two = world.machine("one"), world.machine("two")
    build(one)
    build(two, refuse)
    one.forget("data", KEY)
    assert two.get("data", KEY) is None
    assert not two.path("data", KEY).exists()


@pytest.mark.parametrize("damage", ["missing", "size", "content", "record"])
def test_damage_there_is_told_and_mended(world: World, damage: str) -> None:
    build(world.machine("one"))
    if damage == "record":
        world.objects.held[world.file("records/000000000001")] = b"{"
    elif damage == "missing":
        del world.objects.held[world.file("hello.txt")]
    else:
        world.objects.held[world.file("hello.txt")] = b"jello" if damage == "content" else b"hell"
    told, third = Told(), world.machine("three")
    made = build(world.machine("two"), progress=told)
    assert "damaged" in told.warned[0]
    assert "made again and replaced" in told.warned[0]
    assert same(made, build(third, refuse))
    assert not list((third.root / "partial").iterdir())
    # The first, which had it sound, takes what all have now.
    one = world.machine("one")
    one.prepare()
    assert same(made, one.get("data", KEY))


def test_who_has_it_sound_publishes_it_again_where_it_was_damaged(world: World) -> None:
    made = build(world.machine("one"))
    del world.objects.held[world.file("hello.txt")]
    one, told = world.machine("one"), Told()
    one.prepare()
    assert one.get("data", KEY, told.warn) is not None
    assert "hello.txt is missing" in told.warned[0]
    assert same(made, build(world.machine("two"), refuse))


def test_damage_here_is_mended_from_there(world: World) -> None:
    store = world.machine("one")
    made = build(store)
    was = contents(made.path)
    (made.path / "sub" / "hello.txt").write_text("jello!")
    found = world.machine("one").get("data", KEY)
    assert found is not None
    assert contents(found.path) == was


@pytest.mark.parametrize("what", ["hello.txt", "records/000000000001"])
def test_a_write_that_the_server_loses_is_named_and_nothing_counts(world: World, what: str) -> None:
    store = world.machine("one")
    store.prepare()

    class Losing(FakeStorage):
        def create(self, name: str, data: bytes) -> bool:
            return True if name.endswith(what) else super().create(name, data)

        def write(self, name: str, data: bytes) -> None:
            if not name.endswith(what):
                super().write(name, data)

    losing = SharedStore(URL, world.root / "two", storage=Losing(world.objects))
    with pytest.raises(EnvironmentFault, match="the server lost what it had taken") as caught:
        build(losing)
    assert what in str(caught.value)
    assert "finished on this machine" in caught.value.fix
    assert store.get("data", KEY) is None
    # What was built there is published by the next run, and not built again.
    again = world.machine("two")
    made = build(again, refuse)
    assert same(made, build(world.machine("three"), refuse))


def test_a_server_that_is_gone_when_the_work_is_done_takes_it_later(world: World) -> None:
    gone = False

    def before(what: str, name: str) -> None:
        if gone:
            raise EnvironmentFault("the server cannot be reached", where=URL, fix="run the same command again")

    def goes() -> str:
        nonlocal gone
        gone = True
        return "x"

    calls: list[str] = []
    with pytest.raises(EnvironmentFault, match="cannot be reached"):
        run_stages([stage(calls, goes)], world.machine("one", before), SilentProgress())
    assert not world.names()
    gone = False
    run_stages([stage(calls)], world.machine("one", before), SilentProgress())  # all is here, but not published
    run_stages([stage(calls)], world.machine("two"), SilentProgress())
    assert calls == ["data"]


def test_nothing_is_fetched_where_it_has_no_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    build(world.machine("one"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    store = world.machine("two")
    with pytest.raises(EnvironmentFault, match="69 B are to be fetched, and 10 B are free") as caught:
        store.get("data", KEY)
    assert "DISTILL2EDGE_CACHE" in caught.value.fix
    assert not store.path("data", KEY).exists()


@pytest.mark.parametrize("folder", ["../../../../x", "", "a/b", 7, None])
def test_a_record_that_leads_elsewhere_is_none(world: World, folder: Any) -> None:
    build(world.machine("one"))
    name = world.file("records/000000000001")
    world.objects.held[name] = json.dumps({**json.loads(world.objects.held[name]), "folder": folder}).encode()
    warned: list[str] = []
    assert world.machine("two").get("data", KEY, warned.append) is None
    assert "its record cannot be read" in warned[0]


def test_a_kill_while_publishing_leaves_nothing_to_be_seen_and_the_next_run_publishes(world: World) -> None:
    class Killed(BaseException):
        """As SIGKILL: nothing of ours runs any more."""

    def until(words: str) -> Callable[[str, str], None]:
        dead = threading.Event()

        def before(what: str, name: str) -> None:
            if dead.is_set() or (what in ("create", "write") and words in name):
                dead.set()
                raise Killed

        return before

    for number, words in enumerate(("hello.txt", "weights", "records")):
        victim = world.machine("one", until(words))
        victim._prepared = True  # the check of the server is not what is killed
        with pytest.raises(Killed):
            build(victim, write_hello if number == 0 else refuse)
        assert world.machine("two").peek("data", KEY) is None
    told = Told()
    made = build(world.machine("one"), refuse, told)  # its own lease is not waited for
    assert not told.said
    assert same(made, build(world.machine("two"), refuse))
    names = [name for name in world.names() if "hello.txt" in name]
    assert len(names) in (2, 3)  # files go up a few at once: the second kill may come before this one
    said = shared_housekeeping.collect(world.machine("two"), {KEY}, 30, delete=True, progress=SilentProgress())
    assert "deleted 1 entries" in said
    assert len([name for name in world.names() if "hello.txt" in name]) == 1
    assert same(made, build(world.machine("three"), refuse))


def test_one_waits_for_the_other_and_takes_what_it_has_built(world: World) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(work: Path) -> dict[str, Any]:
        begun.set()
        assert go.wait(20)
        return write_hello(work)

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(build(world.machine("one"), slow)))
    thread.start()
    assert begun.wait(20)
    told = Told()
    other = threading.Thread(target=lambda: found.append(build(world.machine("two"), refuse, told)))
    other.start()
    while not any("is making data" in line for line in told.said):
        assert other.is_alive()
    threading.Event().wait(1.0)  # more than a lease lasts: it is renewed
    go.set()
    thread.join(20)
    other.join(20)
    assert same(*found)


def test_who_has_lost_its_lease_takes_what_the_other_has_published(world: World) -> None:
    """A machine that slept: its lease was taken over, and the work was done twice; one artifact counts."""
    two: list[Any] = []

    def slept(work: Path) -> dict[str, Any]:
        for name in world.names("leases/data-"):
            number = int(name[-12:]) + 50
            world.objects.put(
                f"{name[:-12]}{number:012d}", json.dumps({"host": "b", "owner": "b", "lasts": 9}).encode()
            )
        threading.Event().wait(0.3)
        for name in world.names("leases/data-"):
            del world.objects.held[name]
        two.append(build(world.machine("two")))
        return write_hello(work)

    told = Told()
    one = build(world.machine("one"), slept, told)
    assert same(one, two[0])
    assert any("took data-" in line for line in told.warned)


def test_a_journal_of_a_killed_machine_is_there_for_the_next(world: World) -> None:
    files = Files(("**",), ("answers.jsonl",), ("answers.jsonl",))

    def dies(work: Path) -> dict[str, Any]:
        (work / "answers.jsonl").write_bytes(b'{"key": "a"}\n{"key": "b"}\n{"ke')
        raise UserError("the endpoint refuses")

    with pytest.raises(UserError):
        build(world.machine("one"), dies, files=files)
    assert world.names("unfinished")
    earlier: list[str] = []

    def goes_on(work: Path) -> dict[str, Any]:
        earlier.extend(path.read_text() for path in (work / "earlier").glob("*answers.jsonl"))
        (work / "answers.jsonl").write_text('{"key": "c"}\n')
        return {}

    build(world.machine("two"), goes_on, files=files)
    assert earlier == ['{"key": "a"}\n{"key": "b"}\n']
    assert not world.names("unfinished")
    # A stage of another recipe has those of what is published.
    earlier.clear()
    world.machine("three").build("data", "f" * 64, {}, {}, 0, goes_on, SilentProgress(), files)
    assert earlier == ['{"key": "c"}\n']


def test_garbage_is_collected_by_age_and_not_while_a_machine_works(world: World) -> None:
    store = world.machine("one")
    made, said = build(store), []

    def collects(work: Path) -> dict[str, Any]:
        said.append(shared_housekeeping.collect(world.machine("two"), set(), 0, delete=True, progress=SilentProgress()))
        return {}

    store.build("data", "f" * 64, {}, {}, 0, collects, SilentProgress())
    assert said[0].startswith("nothing is deleted: ")
    assert "is making data-ffff" in said[0]
    assert same(made, build(world.machine("two"), refuse))
    rows = shared_housekeeping.rows(store, lambda line: None)
    assert [row["key"] for row in rows] == ["f" * 20, KEY[:20]] or [row["key"] for row in rows] == [KEY[:20], "f" * 20]
    assert rows[0]["path"].startswith(URL)
    world.objects.now += timedelta(days=10)
    collect = shared_housekeeping.collect
    assert "would delete 0" in collect(store, set(), 30, delete=False, progress=SilentProgress())
    assert "would delete 1" in collect(store, {KEY}, 7, delete=False, progress=SilentProgress())
    assert "deleted 1" in collect(store, {KEY}, 7, delete=True, progress=SilentProgress())
    assert same(made, build(world.machine("three"), refuse))
    assert world.machine("four").get("data", "f" * 64) is None


def test_nobody_waits_for_a_collection_that_only_looks(world: World) -> None:
    store, asked = world.machine("one"), []
    build(store)
    looks = world.machine("two")
    looks.__dict__["storage"] = FakeStorage(world.objects, lambda what, name: asked.append(name))
    world.objects.now += timedelta(days=10)
    collect = shared_housekeeping.collect
    assert "would delete 1" in collect(looks, set(), 7, delete=False, progress=SilentProgress())
    assert not [name for name in asked if name.startswith("leases/gc")]
    assert "deleted 1" in collect(looks, set(), 7, delete=True, progress=SilentProgress())
    assert [name for name in asked if name.startswith("leases/gc")]


def test_a_dead_machine_does_not_stop_the_collection(world: World) -> None:
    store = world.machine("one")
    build(store)
    words = json.dumps({"host": "gone", "owner": "x", "lasts": 0.3}).encode()
    world.objects.put("leases/run-1/000000000004", words)
    world.objects.put("leases/data-1/000000000009", b"nonsense")
    told = Told()
    said = shared_housekeeping.collect(store, set(), 0, delete=True, progress=told)
    assert "deleted 1 entries" in said
    assert "watching" in told.said[0]
    assert not world.names("leases")
    assert not world.names()


@pytest.mark.parametrize("lasts", [-1, 0, 1e12, "NaN", "x", None])
def test_a_lease_that_says_nonsense_is_given_a_time(world: World, lasts: Any) -> None:
    leases = world.machine("one").leases
    told = {"host": "b", "owner": "b", "lasts": lasts}
    world.objects.put("leases/data-1/000000000001", json.dumps(told).replace('"NaN"', "NaN").encode())
    assert 0 < leases._watch("data-1", 1, 0.0).lasts <= 3600


def test_two_servers_with_one_bucket_name_have_directories_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTILL2EDGE_CACHE", str(tmp_path))
    places = set()
    for endpoint in ("http://a:9000", "http://b:9000"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        places |= {directory_of("s3://models"), directory_of("s3://models/x")}
    assert len(places) == 4
    assert {place.parent for place in places} == {tmp_path}
