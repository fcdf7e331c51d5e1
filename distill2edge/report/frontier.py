"""The Pareto frontier: the points that nothing beats in both directions."""

from __future__ import annotations

from typing import Any

from distill2edge.report.text import value_of

Point = dict[str, Any]


def pareto(points: list[Point], higher_is_better: bool = True) -> list[Point]:
    """Mark the points that no other beats: smaller x, and better y.

    Args:
        points: each with figures `x` (less is better) and `y`.
        higher_is_better: direction of y.

    Returns:
        The same points with `frontier`, sorted by x. A point equal in both to another stays with it.
    """
    sign = 1.0 if higher_is_better else -1.0
    placed = []
    for point in points:
        x, y = value_of(point["x"]), value_of(point["y"])
        if x is not None and y is not None:
            placed.append((x, sign * y, point))
    marked = [
        {
            **point,
            "frontier": not any(
                other_x <= x and other_y >= y and (other_x < x or other_y > y) for other_x, other_y, _ in placed
            ),
        }
        for x, y, point in placed
    ]
    return sorted(marked, key=lambda point: value_of(point["x"]) or 0.0)
