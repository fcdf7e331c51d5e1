"""The workers of a Ray cluster, as `mapping.Crew`: actors, each with the model loaded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import count as numbers
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from distill2edge.errors import UserError
from distill2edge.processes.messages import error_of
from distill2edge.processes.own_pickles import pack
from distill2edge.util.progress import Progress, Task
from distill2edge.workers.ray_cluster import Cluster, joined, need_of
from distill2edge.workers.room import WHERE, Need, require_room
from distill2edge.workers.schedule import Event, Lost, Made, Ready, work_through
from distill2edge.workers.worker import Worker, existing

if TYPE_CHECKING:
    from distill2edge.recipe.teacher_workers import Workers
    from distill2edge.workers.mapping import Pass

_MOMENT_S = 1.0
_ROOM_S = 60.0  # after which one is told that the workers wait for room


class RayCrew:
    """As `mapping.Crew`; a context manager. Nothing is started before the first shard.

    Args:
        weights: bytes of the model's, where they are known.
    """

    def __init__(self, workers: Workers, progress: Progress, weights: int = 0) -> None:
        self._workers, self._progress, self._weights = workers, progress, weights
        self._open = ExitStack()
        self._hands: RayHands | None = None

    def map(
        self,
        work: Pass[Any, Any],
        shards: Iterable[tuple[int, Any]],
        count: int,
        task: Task,
        reads: Sequence[Path],
        again: bool,
    ) -> Iterator[tuple[int, Any]]:
        """As `mapping.map_shards`."""
        if not count:
            return
        hands = self._staffed(pack(work), min(self._workers.replicas, count), existing(reads))
        made, lost = 0, 0

        def gone(host: str, why: str, shards: list[int]) -> None:
            nonlocal lost
            lost += 1
            shown = f"; others make {_listed(shards)}" if shards else ""
            self._progress.warn(f"a worker{f' on {host}' if host else ''} was lost ({why}){shown}")

        for one in work_through(hands, shards, count, list(hands.actors), gone):
            made += 1
            yield one.number, one.value
            task.advance(one.rows)
        if lost or count > 1:
            by = f"by {len(hands.actors)} worker{'' if len(hands.actors) == 1 else 's'} on {hands.places}"
            more = f"; {lost} lost, and {hands.given - made} given out once more" if lost else ""
            self._progress.say(f"  {made} shards {by}{more}")
        if not again:
            hands.end()  # their memory may be needed here

    def _staffed(self, payload: bytes, replicas: int, reads: list[str]) -> RayHands:
        """Workers with this pass: those that have it already, or new ones."""
        if self._hands is not None and self._hands.payload == payload:
            self._hands.given = 0
            self._hands.fill(replicas)
            return self._hands
        need = need_of(self._workers, self._weights)
        if self._hands is None:
            cluster = self._open.enter_context(joined(self._workers))
        else:
            cluster = self._hands.cluster
            self._hands.end()
        require_room(list(cluster.nodes.values()), replicas, need)
        self._hands = RayHands(cluster, payload, need, reads, self._progress)
        self._hands.fill(replicas)
        return self._hands

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._hands is not None:
            self._hands.end()
        self._open.close()


class RayHands:
    """As `schedule.Hands`, of one pass.

    Attributes:
        actors: by number.
        given: shards that were handed out.
        ready: as `Hands.ready`.
    """

    def __init__(self, cluster: Cluster, payload: bytes, need: Need, reads: list[str], progress: Progress) -> None:
        self.cluster, self.payload, self.given = cluster, payload, 0
        self.actors: dict[int, Any] = {}
        self._need, self._reads, self._progress = need, reads, progress
        self._numbers = numbers()
        self._asked: dict[Any, tuple[int, int | None]] = {}  # what is awaited: worker, shard (None: that it is ready)
        self.ready: dict[int, str] = {}
        self._places: list[str] = []
        self._waited = 0.0

    @property
    def places(self) -> str:
        """The machines, for people."""
        hosts = list(dict.fromkeys(self._places))
        return ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")

    def fill(self, replicas: int) -> None:
        """Start as many as are missing."""
        while len(self.actors) < replicas:
            self.start()

    def start(self) -> int:
        """As `Hands.start`."""
        ray, need, number = self.cluster.ray, self._need, next(self._numbers)
        asked = {"num_cpus": need.cpus, "num_gpus": need.gpus, "memory": need.memory}
        # What is lost is this side's to do again: Ray itself would try without end.
        kind = ray.remote(**asked, max_restarts=0, max_task_retries=0)(Worker)
        self.actors[number] = actor = kind.remote(self.payload, need.cpus, need.gpus)
        self._asked[actor.ready.remote(self._reads)] = (number, None)
        return number

    def give(self, worker: int, number: int, shard: Any) -> None:
        """As `Hands.give`."""
        self.given += 1
        self._asked[self.actors[worker].make.remote(shard)] = (worker, number)

    def hear(self) -> list[Event]:
        """As `Hands.hear`."""
        ray = self.cluster.ray
        done, _ = ray.wait(list(self._asked), num_returns=1, timeout=_MOMENT_S)
        if not done:
            self._tell_of_waiting()
        return [event for ref in done if (event := self._event(ref)) is not None]

    def _event(self, ref: Any) -> Event | None:
        worker, number = self._asked.pop(ref)
        if worker not in self.actors:
            return None
        try:
            found = self.cluster.ray.get(ref)
        except self.cluster.ray.exceptions.RayTaskError as error:
            raise self._fault(str(error)) from error
        except self.cluster.ray.exceptions.RayError as error:
            return self._lose(worker, error)
        if number is None:
            return self._ready(worker, found)
        value, rows = found
        if rows < 0:
            raise self._failed(worker, value)
        return Made(worker, number, value, rows)

    def _ready(self, worker: int, about: dict[str, Any]) -> Ready:
        host = about["host"]
        if about["missing"]:
            raise UserError(
                f"the worker on {host} does not see {about['missing']}", where=WHERE,
                fix="put the store on a file system that all machines have under the same path: --store",
            )  # fmt: skip
        self._places.append(host)
        return Ready(worker, host)

    def _lose(self, worker: int, error: Exception) -> Lost:
        """Forget a worker, and see that it does nothing more."""
        with suppress(Exception):
            self.cluster.ray.kill(self.actors[worker])
        del self.actors[worker]
        self._asked = {ref: of for ref, of in self._asked.items() if of[0] != worker}
        return Lost(worker, why_lost(error))

    def _failed(self, worker: int, ending: dict[str, Any]) -> Exception:
        """What a worker says of a mistake; one that was asked to end is lost."""
        if "error" in ending:
            return error_of(ending)
        return self._fault(ending.get("fault", "it was asked to end"))

    def _fault(self, told: str) -> RuntimeError:
        return RuntimeError(f"a worker of {WHERE}:\n{told}")

    def _tell_of_waiting(self) -> None:
        """Say once that no worker has room."""
        if self.ready:
            return
        before, self._waited = self._waited, self._waited + _MOMENT_S
        if before < _ROOM_S <= self._waited:
            self._progress.warn(
                f"{WHERE}: no worker has room yet, others use the cluster; see `ray status`. Ctrl-C loses nothing"
            )

    def end(self) -> None:
        """End the workers."""
        for actor in self.actors.values():
            with suppress(Exception):
                self.cluster.ray.kill(actor)
        self.actors.clear()
        self.ready.clear()
        self._asked.clear()


def why_lost(error: BaseException) -> str:
    """Why a worker is gone, in a few words of what Ray says at length."""
    said = str(error)
    if "OutOfMemory" in type(error).__name__ or "memory monitor" in said or "low on memory" in said:
        return "its machine had no memory left"
    if "node" in said and ("died" in said or "dead" in said or "terminated" in said) and "NODE_DIED" in said.upper():
        return "its machine is gone"
    return "its process was killed, or has ended"


def _listed(shards: Sequence[int]) -> str:
    return f"shard{'s' if len(shards) > 1 else ''} {' and '.join(map(str, shards))}"
