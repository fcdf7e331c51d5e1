"""The points that no other beats: pure, on tuples of figures of which less is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def pareto(items: Sequence[Item], figures: Callable[[Item], tuple[float, ...]]) -> list[Item]:
    """The items that no other is as good as in every figure and better in one, by their figures; of equals the first.

    Args:
        figures: of an item, as many for each; less is better.
    """
    if not items:
        return []
    values = np.array([figures(item) for item in items], dtype=np.float64)
    order = np.lexsort(values.T[::-1])  # who beats an item comes before it
    kept = np.empty_like(values)
    found: list[Item] = []
    for index in order:
        if not (kept[: len(found)] <= values[index]).all(axis=1).any():
            kept[len(found)] = values[index]
            found.append(items[index])
    return found
