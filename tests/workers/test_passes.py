"""Every pass goes to another process as it must: pickled before its model, each shard by itself, in any order."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill2edge.util.progress import SilentProgress, Task
from distill2edge.workers.mapping import map_shards, worked_by
from tests import worker_cases as cases


class Elsewhere:
    """As `mapping.Crew`: two copies of the pass, each with what has gone through pickle, and the last shard first."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.reads: list[Path] = []

    def map(
        self,
        work: Any,
        shards: Iterable[tuple[int, Any]],
        count: int,
        task: Task,
        reads: Sequence[Path],
        again: bool,
    ) -> Iterator[tuple[int, Any]]:
        self.reads += reads
        payload = pickle.dumps(work)
        assert len(payload) < 200_000, "the model goes with it"
        copies = [pickle.loads(payload) for _ in range(2)]
        sent = [(number, pickle.dumps(shard)) for number, shard in shards]
        assert len(sent) == count
        for number, shard in reversed(sent):
            self.made.append(number)
            done: list[int] = []
            found = copies[number % 2](pickle.loads(shard), lambda steps=1, note="", done=done: done.append(steps))
            task.advance(sum(done))
            yield number, pickle.loads(pickle.dumps(found))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("teachers")
    cases.make(root)
    return root


@pytest.mark.parametrize("name", cases.CASES)
def test_a_shard_is_the_same_wherever_it_is_made(name: str, place: Path, tmp_path: Path) -> None:
    crew, case = Elsewhere(), cases.CASES[name]
    own = case(place, tmp_path / "own", SilentProgress())
    with worked_by(crew):
        theirs = case(place, tmp_path / "theirs", SilentProgress())
    wanted, found = cases.shards(tmp_path / "own"), cases.shards(tmp_path / "theirs")
    assert len(wanted) == 4
    assert found == wanted
    assert sorted(crew.made) == [0, 1, 2, 3]
    assert all(path.exists() for path in crew.reads)
    assert crew.reads
    assert cases.untimed(theirs) == cases.untimed(own)


def test_shards_that_are_there_are_not_given_away(place: Path, tmp_path: Path) -> None:
    for case in map(cases.CASES.get, ("logits", "labels", "text")):
        assert case is not None
        work = tmp_path / str(id(case))
        case(place, work, SilentProgress())
        before = cases.shards(work)
        lost = sorted(path for path in work.iterdir() if path.name in before)[2]
        lost.unlink()
        crew = Elsewhere()
        with worked_by(crew):
            case(place, work, SilentProgress())
        assert crew.made == [2]
        assert cases.shards(work) == before


def test_without_workers_the_pass_runs_here_and_reads_as_it_goes() -> None:
    read: list[int] = []

    def given() -> Iterator[tuple[int, int]]:
        for number in range(3):
            read.append(number)
            yield number, number

    with SilentProgress().task("", 3) as task:
        found = map_shards(lambda shard, done: shard * 2, given(), 3, task)
        assert next(found) == (0, 0)
        assert read == [0]
        assert list(found) == [(1, 2), (2, 4)]
