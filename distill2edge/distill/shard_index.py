"""Where an example lies among the shards of a signal: 12 bytes of memory for each, and few shards open at once."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_OPEN = 64  # shards that are open at once


class Place(NamedTuple):
    """Where an example lies: its shard, open, that one's path, and its number in it."""

    shard: Any
    path: Path
    number: int


class ShardIndex:
    """Finds examples by id. Of an id that is there twice the last one counts.

    An id is known by 64 bits of a hash.
    """

    def __init__(self, open_shard: Callable[[Path], Any]) -> None:
        """`open_shard`: a shard, from which arrays are read."""
        self._open = lru_cache(_OPEN)(open_shard)
        self._paths: list[Path] = []
        self._begins = [0]
        self._given = array("q")
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, path: Path, ids: Sequence[str]) -> None:
        """The examples of a shard; all shards are added before anything is looked for."""
        assert self._sorted is None
        self._paths.append(path)
        self._given.extend(map(hash, ids))
        self._begins.append(len(self._given))

    def __len__(self) -> int:
        return len(self._order()[0])

    def __contains__(self, example: str) -> bool:
        return self._number(hash(example)) is not None

    def missing(self, examples: Iterable[str]) -> list[str]:
        """Those of the examples that no shard has."""
        return [name for name in examples if name not in self]

    def find(self, example: str) -> Place:
        """Where it lies.

        Raises:
            KeyError: no shard has it.
        """
        number = self._number(hash(example))
        if number is None:
            raise KeyError(example)
        shard = bisect_right(self._begins, number) - 1
        path = self._paths[shard]
        return Place(self._open(path), path, number - self._begins[shard])

    def _number(self, key: int) -> int | None:
        keys, numbers = self._order()
        at = int(np.searchsorted(keys, key))
        return int(numbers[at]) if at < len(keys) and keys[at] == key else None

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes in order, and the number of each among all examples."""
        if self._sorted is None:
            given = np.frombuffer(self._given, np.int64) if self._given else np.zeros(0, np.int64)
            order = np.argsort(given, kind="stable").astype(np.int32)
            keys = given[order]
            last = np.ones(len(keys), bool)
            last[:-1] = keys[1:] != keys[:-1]
            self._sorted = keys[last], order[last]
            del given
            self._given = array("q")
        return self._sorted
