"""The Pareto frontier: the points that nothing beats in both directions."""

from __future__ import annotations

from typing import Any

from distill2edge.report.figures import value_of

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


def latency_points(models: list[Point]) -> list[Point]:
    return [
        {**_point(model), "id": cell["id"], "x": cell["latency_ms"]}
        for model in models
        for cell in model["cells"]
        if not cell["error"] and not model.get("error") and cell["latency_ms"]["value"] and value_of(model.get("score"))
    ]


def size_points(models: list[Point]) -> list[Point]:
    return [
        {**_point(model), "id": model["id"], "x": {"value": model["size_bytes"] / 1e6}}
        for model in models
        if not model.get("error") and model.get("size_bytes") and value_of(model.get("score")) is not None
    ]


def kl_points(models: list[Point], files: list[Point]) -> list[Point]:
    """Size against KL to the student of its quantized files, where a mix of types is among them."""
    if not any(file.get("mix") for file in files):
        return []
    return [
        {**_point(model), "id": model["id"], "x": {"value": model["size_bytes"] / 1e6}, "y": model["kl_student"]}
        for model in models
        if model.get("role") == "student"
        and not model.get("error")
        and model.get("size_bytes")
        and (value_of(model.get("kl_student")) or 0) > 0
    ]


def _point(model: Point) -> Point:
    return {"model": model["id"], "role": model.get("role"), "y": model["score"], "passed": model["passed"]}
