"""Who makes which shard: as few under way as keep every worker busy, and those of a lost worker once more.

It knows nothing of Ray: `Hands` are whatever starts workers and hands them shards.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from distill2edge.errors import EnvironmentFault

HELD = 2
"""Shards that a worker has at most: one at work, and the next, so that it does not wait for it."""
TRIES = 3
"""Workers that may be lost over one shard, and in a row before any is ready: then it is no accident."""


@dataclass(frozen=True)
class Ready:
    """A worker has started; `host`: where."""

    worker: int
    host: str


@dataclass(frozen=True)
class Made:
    """What comes of a shard; `rows`: how many it has."""

    worker: int
    number: int
    value: Any
    rows: int


@dataclass(frozen=True)
class Lost:
    """A worker has ended; `why`: in words."""

    worker: int
    why: str


Event = Ready | Made | Lost


class Hands(Protocol):
    """Starts workers and hands them shards.

    Attributes:
        ready: those that have started, and where.
    """

    ready: dict[int, str]

    def start(self) -> int:
        """Start a worker; its number."""

    def give(self, worker: int, number: int, shard: Any) -> None:
        """Hand it a shard, which it makes after those that it has."""

    def hear(self) -> list[Event]:
        """What has happened; waits for a moment where nothing has.

        Raises:
            UserError: a mistake that every worker would make: of the recipe, or of the machine.
        """


@dataclass
class _Plan:
    """Which shard is where.

    Attributes:
        held: by worker, its shards in the order in which they were given; the first is at work.
        again: shards of lost workers.
    """

    source: Iterator[tuple[int, Any]]
    left: int
    held: dict[int, dict[int, Any]] = field(default_factory=dict)
    again: deque[tuple[int, Any]] = field(default_factory=deque)
    tried: Counter[int] = field(default_factory=Counter)
    barren: int = 0

    def next(self) -> tuple[int, Any] | None:
        """The next shard to be given; None where all are."""
        return self.again.popleft() if self.again else next(self.source, None)


def work_through(
    hands: Hands,
    shards: Iterable[tuple[int, Any]],
    count: int,
    workers: Iterable[int],
    lost: Callable[[str, str, list[int]], None] = lambda host, why, again: None,
) -> Iterator[Made]:
    """What comes of every shard, once, in the order in which it comes.

    Args:
        count: of the shards.
        workers: that have been started; as many are kept at work, as long as there are shards for them.
        lost: told of each that is lost: where, why, and which shards are made by others.

    Raises:
        EnvironmentFault: workers that are lost again and again.
    """
    plan = _Plan(iter(shards), count)
    for worker in workers:
        plan.held[worker] = {}
    while plan.left:
        _fill(plan, hands)
        for event in hands.hear():
            if isinstance(event, Ready):
                hands.ready[event.worker], plan.barren = event.host, 0
            elif isinstance(event, Lost):
                _lose(plan, hands, event, lost)
            elif plan.held.get(event.worker, {}).pop(event.number, None) is not None:
                plan.left -= 1
                yield event


def _fill(plan: _Plan, hands: Hands) -> None:
    """Give every worker a first shard before any gets a second; none to one that may never find room."""
    for most in range(1, HELD + 1):
        for worker, held in plan.held.items():
            if worker in hands.ready and len(held) < most and (found := plan.next()) is not None:
                held[found[0]] = found[1]
                hands.give(worker, *found)


def _lose(plan: _Plan, hands: Hands, event: Lost, lost: Callable[[str, str, list[int]], None]) -> None:
    """Take back what a lost worker had, and start another in its place."""
    held = plan.held.pop(event.worker, None)
    if held is None:
        return
    host = hands.ready.pop(event.worker, "")
    if not host:
        plan.barren += 1
    elif held:
        plan.tried[next(iter(held))] += 1
    worst = max(plan.tried.values(), default=0)
    if max(plan.barren, worst) >= TRIES:
        over = "before they were ready" if plan.barren >= TRIES else "over the same shard"
        raise EnvironmentFault(
            f"{TRIES} workers were lost {over}; the last: {event.why}", where="teacher.workers",
            fix="look at memory and the system's log there; the finished shards are kept, the same command goes on",
        )  # fmt: skip
    plan.again.extendleft(reversed(held.items()))
    lost(host, event.why, list(held))
    waiting = plan.left - sum(map(len, plan.held.values()))
    if waiting > sum(not shards for shards in plan.held.values()):  # more than those have time for that are idle
        plan.held[hands.start()] = {}
