"""The rows of one process: its share of every micro-batch, and a row that stands in where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from torch.utils.data import Dataset, Sampler

from distill2edge.processes.ranks import share

STANDS_IN = "stands_in"
"""Key of an item or batch that is there so that all processes compute alike, and counts for nothing."""


class Order(Protocol):
    """Numbers of rows, in the order in which they are trained on."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[int]: ...


class Shares(Sampler[list[int]]):
    """Of every `batch` rows of an order those of one process; ~n where row n stands in for none.

    The micro-batches are those of a single process: only who computes a row depends on how many there are.
    """

    def __init__(self, order: Order, batch: int, rank: int = 0, world: int = 1) -> None:
        self.order, self.batch, self.rank, self.world = order, batch, rank, world

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        rows: list[int] = []
        for number in self.order:
            rows.append(number)
            if len(rows) == self.batch:
                yield self._own(rows)
                rows = []
        if rows:
            yield self._own(rows)

    def _own(self, rows: Sequence[int]) -> list[int]:
        return list(share(rows, self.rank, self.world)) or [~rows[0]]


class StandIns(Dataset[dict[str, Any]]):
    """A data set that knows the numbers of `Shares`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number >= 0:
            return dict(self.dataset[number])
        return {**self.dataset[~number], STANDS_IN: True}


def marked(collator: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The collator, whose batches say where they stand in for none."""
    return partial(_collate, collator)


def _collate(collator: Callable[..., dict[str, Any]], items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    batch = collator(items)
    return {**batch, STANDS_IN: True} if items[0].get(STANDS_IN) else batch
