"""The store: same key same artifact, damage is found and corrected, a kill loses nothing, two runs share it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.artifact import make_key
from distill2edge.pipeline.stage_files import Files
from distill2edge.pipeline.store import Store
from distill2edge.running.housekeeping import collect_garbage, list_store
from distill2edge.util.progress import SilentProgress

KEY = make_key("data", 1, {"a": 1}, {})


SHARDS = Files(resumes=("shard-*",))


def build(store: Store, write: Any, key: str = KEY, files: Files = SHARDS) -> Any:
    return store.build("data", key, {}, {"a": 1}, 0, write, SilentProgress(), files)


def write_hello(work: Path) -> dict[str, Any]:
    (work / "sub").mkdir(exist_ok=True)
    (work / "sub" / "hello.txt").write_text("hello")
    return {"rows": 3}


def test_keys_depend_on_stage_version_section_and_parents() -> None:
    keys = {
        make_key("data", 1, {"a": 1}, {}),
        make_key("teacher", 1, {"a": 1}, {}),
        make_key("data", 2, {"a": 1}, {}),
        make_key("data", 1, {"a": 2}, {}),
        make_key("data", 1, {"a": 1}, {"p": "k"}),
    }
    assert len(keys) == 5
    assert make_key("data", 1, {"a": 1, "b": 2}, {}) == make_key("data", 1, {"b": 2, "a": 1}, {})


def test_an_artifact_is_made_once(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []

    def write(work: Path) -> dict[str, Any]:
        calls.append(work)
        return write_hello(work)

    first = build(store, write)
    second = build(store, write)
    assert len(calls) == 1
    assert first.path == second.path
    assert second.facts == {"rows": 3}
    entry = second.manifest["files"][0]
    assert entry["path"] == "sub/hello.txt"
    assert entry["size"] == 5
    assert len(entry["sha256"]) == 64
    assert second.manifest["versions"]["numpy"]


@pytest.mark.parametrize("damage", ["content", "size", "missing", "manifest"])
def test_damage_is_found_told_and_mended(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    path = build(store, write_hello).path
    file = path / "sub" / "hello.txt"
    if damage == "content":
        file.write_text("jello")
    elif damage == "size":
        file.write_text("hel")
    elif damage == "missing":
        file.unlink()
    else:
        (path / "manifest.json").write_text("{")
    warnings: list[str] = []
    assert store.get("data", KEY, warnings.append) is None
    assert "damaged" in warnings[0]
    assert (build(store, write_hello).path / "sub" / "hello.txt").read_text() == "hello"


def test_a_touched_file_with_the_same_content_is_still_good(tmp_path: Path) -> None:
    store = Store(tmp_path)
    file = build(store, write_hello).path / "sub" / "hello.txt"
    os.utime(file, (1, 1))
    assert store.get("data", KEY) is not None


def test_a_failed_stage_leaves_no_artifact_and_its_work_is_taken_up(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(work: Path) -> dict[str, Any]:
        (work / "shard-0").write_text("done")
        raise UserError("no")

    with pytest.raises(UserError):
        build(store, fails)
    assert store.get("data", KEY) is None

    def goes_on(work: Path) -> dict[str, Any]:
        assert (work / "shard-0").read_text() == "done"
        return {}

    build(store, goes_on)


def test_a_full_disk_is_an_environment_fault_with_the_fix(tmp_path: Path) -> None:
    def full(work: Path) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EnvironmentFault, match="disk is full") as caught:
        build(Store(tmp_path), full)
    assert "store gc" in caught.value.fix
    assert caught.value.exit_code == 4


_SLOW = """
import sys, time
from pathlib import Path
from distill2edge.util.progress import SilentProgress
from distill2edge.pipeline.stage_files import Files
from distill2edge.pipeline.store import Store
def write(work):
    for n in range(1000):
        shard = work / f"shard-{n}"
        if not shard.exists():
            shard.write_text("x")
            (work.parent.parent / f"made-{n}").open("a").write("once\\n")
            if n == 3 and sys.argv[2] == "stop":
                print("ready", flush=True)
                time.sleep(60)
        if n == 5:
            return {"shards": 6}
store, files = Store(Path(sys.argv[1])), Files(resumes=("shard-*",))
print(store.build("data", "k" * 64, {}, {}, 0, write, SilentProgress(), files).facts)
"""


def test_kill_9_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _SLOW, str(tmp_path), "stop"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("data/*"))
    again = subprocess.run(
        [sys.executable, "-c", _SLOW, str(tmp_path), "go"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "{'shards': 6}" in again.stdout
    # Shard 3 was written before the kill: each was made exactly once.
    assert all((tmp_path / f"made-{n}").read_text() == "once\n" for n in range(6))


def _build_slowly(root: str) -> None:
    def write(work: Path) -> dict[str, Any]:
        with (work.parent.parent / "calls").open("a") as file:
            file.write("x")
        time.sleep(0.5)
        return {}

    build(Store(Path(root)), write)


def test_two_processes_make_an_artifact_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_build_slowly, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "calls").read_text() == "x"


def test_garbage_collection_keeps_what_runs_name_and_says_before_it_deletes(tmp_path: Path) -> None:
    store, run = Store(tmp_path / "store"), tmp_path / "run"
    kept = build(store, write_hello)
    gone = build(store, write_hello, key=make_key("data", 1, {"a": 2}, {}))
    for artifact in (kept, gone):
        os.utime(artifact.path / "manifest.json", (1, 1))
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"stages": [{"key": kept.key}]}))
    said = collect_garbage(store.root, [run], 30, delete=False)
    assert "would delete 1 entries" in said
    assert gone.path.exists()
    collect_garbage(store.root, [run], 30, delete=True)
    assert kept.path.exists()
    assert not gone.path.exists()
    assert [row["key"] for row in list_store(store.root)] == [kept.key[:20]]


def _run_for_ever(root: str) -> None:
    store = Store(Path(root))

    def write(work: Path) -> dict[str, object]:
        (work / "half").write_text("x")
        (store.root / "begun").touch()
        time.sleep(60)
        return {}

    store.prepare()
    with store.locks.in_use(SilentProgress()):
        build(store, write_hello, key=make_key("data", 1, {"a": 9}, {}))
        build(store, write)


def test_garbage_collection_leaves_what_a_run_that_goes_on_uses(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    old = build(store, write_hello, key=make_key("data", 1, {"a": 2}, {}))
    os.utime(old.path / "manifest.json", (1, 1))
    process = multiprocessing.get_context("spawn").Process(target=_run_for_ever, args=(str(store.root),))
    process.start()
    try:
        while not (store.root / "begun").exists():
            assert process.is_alive()
            time.sleep(0.02)
        said = collect_garbage(store.root, [], 0, delete=True)
        assert "a run is using this store" in said
        assert not old.path.exists()
        assert len(list(store.artifacts())) == len(store.partials()) == 1
        assert (store.partials()[0] / "half").read_text() == "x"
    finally:
        process.kill()
        process.join()
    time.sleep(0.01)
    assert "deleted 2 entries" in collect_garbage(store.root, [], 0, delete=True)  # nobody uses it any more
    assert not store.partials()


def test_only_paths_of_the_store_are_removed(tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    with pytest.raises(UserError, match="not in the store"):
        Store(tmp_path / "store").remove(outside)
    assert outside.exists()
