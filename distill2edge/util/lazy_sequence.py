"""Sequences whose items are made when they are asked for: nothing of them is in memory but where they lie."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Self, TypeVar, overload

import numpy as np

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """A sequence of which a subclass makes an item by its number; a slice, and what is picked, is of the same kind."""

    def __init__(self, count: int) -> None:
        self._numbers: range | np.ndarray = range(count)

    @abstractmethod
    def _make(self, number: int) -> T:
        """The item of a number, from 0."""

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> Self: ...
    def __getitem__(self, number: int | slice) -> T | Self:
        if isinstance(number, slice):
            return self._of(self._numbers[number])
        return self._make(int(self._numbers[number]))

    def __iter__(self) -> Iterator[T]:
        for number in self._numbers:
            yield self._make(int(number))

    def __add__(self, other: Iterable[T]) -> list[T]:
        return [*self, *other]

    def __radd__(self, other: Iterable[T]) -> list[T]:
        return [*other, *self]

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Sequence) and len(self) == len(other)
        return same and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def picked(self, places: np.ndarray) -> Self:
        """Those at some places, in their order."""
        numbers = self._numbers
        if isinstance(numbers, range):
            return self._of(numbers.start + numbers.step * places)
        return self._of(numbers[places])

    def _of(self, numbers: range | np.ndarray) -> Self:
        part = copy(self)
        part._numbers = numbers
        return part
