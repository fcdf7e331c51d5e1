"""Who makes which shard: each is made once, whoever is lost; what is lost again and again ends the work."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import pytest

from distill2edge.errors import EnvironmentFault
from distill2edge.workers.schedule import HELD, Event, Hands, Lost, Made, Ready, work_through


class Fake(Hands):
    """Workers of this process. `dies`: worker and how many shards it has made by then."""

    def __init__(self, dies: dict[int, int] | None = None, poison: int = -1) -> None:
        self.dies, self.poison = dies or {}, poison
        self.queues: dict[int, deque[tuple[int, Any]]] = {}
        self.made: Counter[int] = Counter()
        self.computed: Counter[int] = Counter()
        self.given: list[tuple[int, int]] = []
        self.new: list[Event] = []
        self.most = 0
        self.ready: dict[int, str] = {}

    def start(self) -> int:
        worker = max([*self.queues, *(event.worker for event in self.new), -1]) + 1
        self.queues[worker] = deque()
        self.new.append(Ready(worker, f"host-{worker}"))
        return worker

    def give(self, worker: int, number: int, shard: Any) -> None:
        assert shard == f"rows of {number}"
        self.given.append((worker, number))
        self.queues[worker].append((number, shard))
        self.most = max(self.most, len(self.queues[worker]))

    def hear(self) -> list[Event]:
        found, self.new = self.new, []
        for worker, queue in self.queues.items():
            if not queue:
                continue
            number = queue[0][0]
            if self.dies.get(worker) == self.made[worker] or number == self.poison:
                queue.clear()
                self.dies.pop(worker, None)
                found.append(Lost(worker, "killed"))
                continue
            queue.popleft()
            self.made[worker] += 1
            self.computed[number] += 1
            found.append(Made(worker, number, number * 10, 1))
        return found


def shards(count: int, taken: list[int] | None = None) -> Iterator[tuple[int, str]]:
    for number in range(count):
        if taken is not None:
            taken.append(number)
        yield number, f"rows of {number}"


def run(hands: Fake, count: int, workers: int = 2, **told: Any) -> list[Made]:
    return list(work_through(hands, shards(count), count, [hands.start() for _ in range(workers)], **told))


def test_every_shard_is_made_once_and_no_more_are_under_way_than_two_for_each_worker() -> None:
    hands, taken = Fake(), []
    workers = [hands.start() for _ in range(3)]
    found = []
    for one in work_through(hands, shards(20, taken), 20, workers):
        found.append(one)
        assert len(taken) <= len(found) + HELD * 3  # rows are read as there is room for them
    assert sorted(one.number for one in found) == list(range(20))
    assert all(one.value == one.number * 10 for one in found)
    assert set(hands.computed.values()) == {1}
    assert hands.most <= HELD


def test_first_shards_go_to_every_worker() -> None:
    hands = Fake()
    run(hands, 2)
    assert [worker for worker, _ in hands.given] == [0, 1]


@pytest.mark.parametrize("at", range(4))
def test_shards_of_a_lost_worker_are_made_by_others_and_nothing_twice(at: int) -> None:
    hands, told = Fake({1: at}), []
    found = run(hands, 9, lost=lambda host, why, again: told.append((host, why, again)))
    assert sorted(one.number for one in found) == list(range(9))
    assert set(hands.computed.values()) == {1}
    ((host, why, again),) = told
    assert (host, why) == ("host-1", "killed")
    assert 0 < len(again) <= HELD


def test_all_workers_may_be_lost() -> None:
    hands = Fake({0: 1, 1: 2, 2: 0})
    assert sorted(one.number for one in run(hands, 9)) == list(range(9))
    assert set(hands.computed.values()) == {1}


def test_a_shard_that_ends_its_workers_ends_the_work() -> None:
    """And not the other shards' workers: those that were made before are there."""
    hands, found = Fake(poison=4), list[int]()

    def work() -> None:
        for one in work_through(hands, shards(9), 9, [hands.start(), hands.start()]):
            found.append(one.number)

    with pytest.raises(EnvironmentFault, match="3 workers were lost over the same shard; the last: killed"):
        work()
    assert set(found) >= {0, 1, 2, 3}
    assert 4 not in found


def test_workers_that_never_start_end_the_work() -> None:
    class Barren(Fake):
        def start(self) -> int:
            worker = super().start()
            self.new = [*self.new[:-1], Lost(worker, "no memory")]
            return worker

        def hear(self) -> list[Event]:
            found, self.new = self.new, []
            return found

    with pytest.raises(EnvironmentFault, match="3 workers were lost before they were ready; the last: no memory"):
        run(Barren(), 5)


def test_a_word_of_a_worker_that_is_lost_already_changes_nothing() -> None:
    class Twice(Fake):
        def hear(self) -> list[Event]:
            found = super().hear()
            return [each for event in found for each in [event] * (1 + isinstance(event, Made | Lost))]

    hands = Twice({0: 1})
    assert sorted(one.number for one in run(hands, 6)) == list(range(6))


def test_a_worker_that_finds_no_room_gets_no_shard() -> None:
    """A replacement on a cluster that has lost a node waits for ever: the others do the work."""

    class Full(Fake):
        def start(self) -> int:
            worker = super().start()
            if worker > 1:
                self.new.pop()
            return worker

    hands = Full({1: 1})
    assert sorted(one.number for one in run(hands, 9)) == list(range(9))
    assert {worker for worker, _ in hands.given} == {0, 1}
