"""What a process of a training knows of the others: its number, their sums, their rows. Alone it is process 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""How long one process may be busy alone (writing a checkpoint) while the others wait for it."""


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join(**options: Any) -> None:
    """Join the group that the environment names (RANK, WORLD_SIZE, LOCAL_RANK): NCCL between GPUs, gloo between CPUs.

    Args:
        options: of `torch.distributed.init_process_group`.

    Raises:
        RuntimeError: the others cannot be reached.
    """
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", number)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, rank=number, world_size=count, timeout=TIMEOUT, **options)


def leave() -> None:
    """End the membership, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share(rows: Sequence[T], rank: int, world: int) -> Sequence[T]:
    """The rows of one process among those of a batch: every `world`-th, so that lengths that are sorted spread evenly.

    Some processes have a row more than others, and with fewer rows than processes some have none.
    """
    return rows[rank::world]


def total(values: Tensor) -> Tensor:
    """Sums over the processes, the same in each; shape and type as `values`, which stay."""
    if world() == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def agreed(value: T) -> T:
    """What process 0 says, in every process."""
    if world() == 1:
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    return told[0]


def gathered(own: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, one process after another, and where this one's begin.

    Gradients go back to the process whose rows they are of, summed over all that used them.

    Args:
        own: [n, D]; n may differ, and may be 0.
    """
    if world() == 1:
        return own, 0
    counts = torch.zeros(world(), dtype=torch.int64, device=own.device)
    counts[rank()] = len(own)
    sizes = [int(count) for count in total(counts)]
    rows: Tensor = _Gathered.apply(own, sizes)  # type: ignore[no-untyped-call]
    return rows, sum(sizes[: rank()])


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: list[int]) -> Tensor:
        begin = sum(sizes[: rank()])
        ctx.part = slice(begin, begin + len(own))
        rows = own.new_zeros((sum(sizes), *own.shape[1:]))
        rows[ctx.part] = own
        dist.all_reduce(rows)  # every other process has zeros there
        return rows

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        summed = outer[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[ctx.part], None
