"""The map of a pass over shards: in this process, or by the workers of the stage at work.

Who works is a matter of the user's machines and no part of a stage's key: a shard is the same whoever makes it, and
this process alone writes it to the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from distill2edge.util.progress import Progress, Task

if TYPE_CHECKING:
    from distill2edge.recipe.teacher_workers import Workers

S_contra = TypeVar("S_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
R = TypeVar("R")


class Pass(Protocol[S_contra, R_co]):
    """What is done to each shard. It loads its model at the first one, and can be pickled before."""

    def __call__(self, shard: S_contra, done: Callable[..., None], /) -> R_co:
        """What comes of a shard; `done` is told of each row."""


class Crew(Protocol):
    """Workers of a stage."""

    def map(
        self,
        work: Pass[S, R],
        shards: Iterable[tuple[int, S]],
        count: int,
        task: Task,
        reads: Sequence[Path],
        again: bool,
    ) -> Iterator[tuple[int, R]]:
        """As `map_shards`."""


_crew: ContextVar[Crew | None] = ContextVar("crew", default=None)


def map_shards(
    work: Pass[S, R],
    shards: Iterable[tuple[int, S]],
    count: int,
    task: Task,
    *,
    reads: Sequence[Path] = (),
    again: bool = False,
) -> Iterator[tuple[int, R]]:
    """What comes of each shard, with its number: here one after another, of workers as they come.

    Args:
        work: of every shard by itself.
        shards: with their numbers; read as there is room for them.
        count: of the shards.
        task: told of each row that is done.
        reads: the files and directories that `work` opens.
        again: whether the same work will be asked for again, so that workers keep its model.

    Raises:
        UserError: as `work`; workers that are lost again and again.
    """
    crew = _crew.get()
    if crew is None:
        return ((number, work(shard, task.advance)) for number, shard in shards)
    return crew.map(work, shards, count, task, reads, again)


@contextmanager
def shared_out(workers: Workers | None, progress: Progress, weights: int = 0) -> Iterator[None]:
    """Let the workers of a recipe make the shards of passes while the block runs; None: this process does.

    They are started for the first shard that has to be made, and end with the block.

    Args:
        weights: bytes of the model's, each worker's to hold; 0: not known.

    Raises:
        EnvironmentFault: a cluster that is not there, of other versions, or without the room; Ray is not installed.
    """
    if workers is None:
        yield
        return
    from distill2edge.workers.ray_crew import RayCrew

    with RayCrew(workers, progress, weights) as crew, worked_by(crew):
        yield


@contextmanager
def worked_by(crew: Any) -> Iterator[None]:
    """Let a `Crew` make the shards while the block runs."""
    token = _crew.set(crew)
    try:
        yield
    finally:
        _crew.reset(token)
