"""How many workers a cluster has room for, by what its nodes say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill2edge.errors import EnvironmentFault
from distill2edge.util.quantities import readable_bytes

WHERE = "teacher.workers"
_LISTED = 4


@dataclass(frozen=True)
class Node:
    """A machine of a cluster.

    Attributes:
        name: for people.
        cpus, gpus: that Ray gives away there.
        memory: bytes that it gives away.
        gpu_bytes: memory of each GPU, as far as it is known.
    """

    name: str
    cpus: int
    gpus: int
    memory: int
    gpu_bytes: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        """For people."""
        of = f" of {readable_bytes(max(self.gpu_bytes))}" if self.gpus and self.gpu_bytes else ""
        return f"{self.name} has {_count(self.cpus, 'core')}, {_count(self.gpus, 'GPU')}{of}, " + (
            f"{readable_bytes(self.memory)} of memory"
        )


@dataclass(frozen=True)
class Need:
    """What each worker takes.

    Attributes:
        weights: bytes of the model's weights as it computes; 0 where they are not known yet.
        base: bytes of a process beside them.
    """

    cpus: int
    gpus: int
    weights: int
    base: int

    @property
    def memory(self) -> int:
        """Bytes of a node's memory; the weights of one on a GPU are there."""
        return self.base + (0 if self.gpus else self.weights)

    def fits(self, node: Node) -> int:
        """How many have room on a node."""
        if self.gpus and node.gpu_bytes and self.weights > self.gpus * max(node.gpu_bytes):
            return 0
        found = min(node.cpus // self.cpus, node.memory // self.memory)
        return min(found, node.gpus // self.gpus) if self.gpus else found

    @property
    def words(self) -> str:
        """For people."""
        gpus = f", {_count(self.gpus, 'GPU')}" if self.gpus else ""
        of = f" with {readable_bytes(self.weights)} of weights" if self.gpus and self.weights else ""
        return f"{_count(self.cpus, 'core')}{gpus}{of} and {readable_bytes(self.memory)} of memory"


def require_room(nodes: Sequence[Node], replicas: int, need: Need) -> None:
    """Refuse more workers than there is room for.

    Raises:
        EnvironmentFault: what is there, and what each worker takes.
    """
    room = sum(need.fits(node) for node in nodes)
    if room >= replicas:
        return
    there = "; ".join(node.words for node in nodes[:_LISTED])
    more = f"; and {len(nodes) - _LISTED} more nodes" if len(nodes) > _LISTED else ""
    fewer = f"set {WHERE}.replicas: {room}" if room else "name a larger cluster"
    raise EnvironmentFault(
        f"{_count(replicas, 'worker')} of {need.words} each: there is room for {room}. {there}{more}",
        where=f"{WHERE}.replicas", fix=f"{fewer}, ask for less of each (cpus, gpus), or leave {WHERE} out",
    )  # fmt: skip


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
