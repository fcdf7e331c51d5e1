"""What the two benchmarks on sums share: the trivial baseline, and the least favourable seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common import paired

from distill2edge.data.split_files import read_rows
from distill2edge.recipe.schema import Recipe
from distill2edge.util.bootstrap import Figure


def nearest(recipe: Recipe, data_dir: Path) -> list[float]:
    """[test rows] 1 where the answer of the nearest labelled sum is right: `|a - a'| + |b - b'|`, the first of equals.

    Labelled are the rows that the teacher's fit sees.
    """
    assert recipe.teacher.fit is not None
    labelled = [(_numbers(row.prompt), row.response) for row in read_rows(data_dir, "train")]
    labelled = labelled[: recipe.teacher.fit.max_rows]
    right = []
    for row in read_rows(data_dir, "test")[: recipe.verify.rows]:
        a, b = _numbers(row.prompt)
        _, answer = min(labelled, key=lambda item: abs(item[0][0] - a) + abs(item[0][1] - b))
        right.append(float(answer == row.response))
    return right


def worst_seed(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Figure:
    """Of the paired differences of each seed alone, the one whose interval begins lowest."""
    figures = [paired([x], [y]) for x, y in zip(a, b, strict=True)]
    return min(figures, key=lambda figure: figure.low)


def _numbers(prompt: str) -> tuple[int, int]:
    first, second = prompt.rstrip(":").split(" plus ")
    return int(first), int(second)
