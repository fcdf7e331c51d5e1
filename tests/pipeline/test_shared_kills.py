"""Processes with directories of their own around one S3 server: one builds, and a killed one is followed by another."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3_server import Server

_BUILD = """
import sys, time
from pathlib import Path
from distill2edge.pipeline.shared_store import SharedStore
from distill2edge.pipeline.stage_files import Files
from distill2edge.util.progress import PlainProgress
root, how, lasts = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def write(work):
    with (root.parent / "calls").open("a") as file:
        file.write(root.name + " ")
    (work / "answers.jsonl").write_text('{"key": "' + root.name + '"}\\n')
    print("begun", flush=True)
    if how == "hang":
        time.sleep(120)
    time.sleep(1.0 if how == "slow" else 0)
    earlier = sorted(path.read_text() for path in (work / "earlier").glob("*"))
    return {"by": root.name, "earlier": earlier}
store = SharedStore("s3://models/team", root, lasts=lasts)
files = Files(("**",), ("answers.jsonl",), ("answers.jsonl",))
made = store.build("data", "k" * 64, {}, {}, 0, write, PlainProgress(), files)
print("facts", made.facts, flush=True)
"""


def process(root: Path, how: str = "", lasts: float = 60.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(root), how, str(lasts)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def line_of(stream: object, words: str) -> str:
    for line in stream:  # type: ignore[attr-defined]
        if words in line:
            return str(line)
    raise AssertionError(f"ended without {words!r}")


@pytest.mark.slow
def test_two_at_once_build_once(s3: Server, tmp_path: Path) -> None:
    both = [process(tmp_path / name, "slow") for name in ("a", "b")]
    out = [each.communicate(timeout=60) for each in both]
    assert [each.returncode for each in both] == [0, 0], out
    facts = {line for text, _ in out for line in text.splitlines() if line.startswith("facts")}
    assert len(facts) == 1
    assert len((tmp_path / "calls").read_text().split()) == 1


def test_a_killed_one_is_followed_by_another_and_its_answers_are_not_lost(s3: Server, tmp_path: Path) -> None:
    lasts = 2.0
    victim = process(tmp_path / "a", "hang", lasts)
    assert line_of(victim.stdout, "begun")
    others = [process(tmp_path / name, "", lasts) for name in ("b", "c")]
    for other in others:
        assert "is making data-k" in line_of(other.stderr, "waiting for it")
    while not s3.names("team/unfinished"):
        time.sleep(0.05)
    assert all(other.poll() is None for other in others)  # it lives, and is not overtaken
    victim.kill()
    victim.wait()
    killed = time.monotonic()
    out = [other.communicate(timeout=60) for other in others]
    assert [other.returncode for other in others] == [0, 0], out
    assert time.monotonic() - killed > lasts / 2  # not before it was silent for as long as its lease lasts
    facts = {line for text, _ in out for line in text.splitlines() if line.startswith("facts")}
    assert len(facts) == 1
    assert '{"key": "a"}' in facts.pop()
    calls = (tmp_path / "calls").read_text().split()
    assert calls in (["a", "b"], ["a", "c"])
    assert s3.names("team/leases") == s3.names("team/unfinished") == []


@pytest.mark.slow
def test_a_killed_one_goes_on_at_once_itself(s3: Server, tmp_path: Path) -> None:
    victim = process(tmp_path / "a", "hang")
    assert line_of(victim.stdout, "begun")
    victim.kill()
    victim.wait()
    assert s3.names("team/leases")
    out, told = process(tmp_path / "a").communicate(timeout=30)  # half of what the lease lasts
    assert "facts" in out, told
    assert "waiting" not in told


@pytest.mark.slow
def test_one_that_slept_past_its_lease_takes_what_the_other_has_published(s3: Server, tmp_path: Path) -> None:
    sleeper = process(tmp_path / "a", "slow", 2.0)
    assert line_of(sleeper.stdout, "begun")
    sleeper.send_signal(signal.SIGSTOP)
    out, told = process(tmp_path / "b", "", 2.0).communicate(timeout=60)
    assert "'by': 'b'" in out, told
    sleeper.send_signal(signal.SIGCONT)
    out, told = sleeper.communicate(timeout=60)
    assert "'by': 'b'" in out, told
    assert "fetching data" in told  # whether or not it has noticed that its lease is lost
    assert s3.names("team/leases") == []
