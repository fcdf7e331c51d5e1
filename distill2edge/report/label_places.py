"""Where the labels of a chart go: on no mark, no line and no other label. Pure geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from distill2edge.report.svg import Drawing, text_width

Spot = tuple[float, float, str]
"""A mark: x, y, and its label."""
Segment = tuple[float, float, float, float]
"""A drawn line: x1, y1, x2, y2."""
Placed = tuple[float, float, str, str]
"""A label: x and y of its base line, anchor (start, end, middle), text."""
_LED = 40
"""Labels, the most important first, that may stand apart from their mark: more lines than these nobody follows."""
_REACH = 84.0
"""How far a label may stand from its mark, with a line between: further away nobody finds it."""


@dataclass(frozen=True)
class Box:
    """A rectangle that a label or a mark takes."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return not (
            self.right <= other.left or other.right <= self.left or self.bottom <= other.top or other.bottom <= self.top
        )

    def crossed(self, line: Segment) -> bool:
        """Whether some of the line lies inside (Liang and Barsky 1984)."""
        if (
            max(line[0], line[2]) < self.left
            or min(line[0], line[2]) > self.right
            or max(line[1], line[3]) < self.top
            or min(line[1], line[3]) > self.bottom
        ):
            return False
        x, y, dx, dy = line[0], line[1], line[2] - line[0], line[3] - line[1]
        first, last = 0.0, 1.0
        for step, room in ((-dx, x - self.left), (dx, self.right - x), (-dy, y - self.top), (dy, self.bottom - y)):
            if step == 0:
                if room <= 0:
                    return False
            elif step < 0:
                first = max(first, room / step)
            else:
                last = min(last, room / step)
        return first < last or (first == last and dx == dy == 0)


def label_box(label: Placed) -> Box:
    """The room that a label takes."""
    x, y, anchor, text = label
    wide = text_width(text)
    left = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
    return Box(left, y - 11, left + wide, y + 4)


@dataclass(frozen=True)
class _Room:
    """What is taken: marks and labels, lines, lines to labels; and where labels may stand at all."""

    bounds: Box
    boxes: list[Box]
    lines: list[Segment]
    leaders: list[Segment] = field(default_factory=list)

    def free(self, box: Box, skip: int) -> bool:
        """Whether a label may stand there; the mark `skip` is its own."""
        edge = self.bounds
        if box.left < edge.left or box.right > edge.right or box.top < edge.top or box.bottom > edge.bottom:
            return False
        box = Box(box.left - 1, box.top - 1, box.right + 1, box.bottom + 1)  # some air
        if any(box.meets(other) for n, other in enumerate(self.boxes) if n != skip):
            return False
        return not any(box.crossed(line) for line in (*self.lines, *self.leaders))

    def clear(self, line: Segment, skip: int) -> bool:
        """Whether a line to a label passes no mark, no label, and no line to another."""
        if any(other.crossed(line) for n, other in enumerate(self.boxes) if n != skip):
            return False
        return not any(_cross(line, other) for other in self.leaders)


def _cross(a: Segment, b: Segment) -> bool:
    """Whether two lines cut each other."""

    def side(line: Segment, x: float, y: float) -> float:
        return (line[2] - line[0]) * (y - line[1]) - (line[3] - line[1]) * (x - line[0])

    return side(a, *b[:2]) * side(a, *b[2:]) < 0 and side(b, *a[:2]) * side(b, *a[2:]) < 0


def place_labels(spots: Sequence[Spot], bounds: Box, lines: Sequence[Segment] = ()) -> list[Placed | None]:
    """Where each label goes: beside its mark, else as near as there is room, with a line between.

    No label covers a mark, a line or another label, and no line to a label passes under one.

    Args:
        spots: marks with their label, the most important first.
        bounds: where labels may go.
        lines: what else is drawn.

    Returns:
        for each spot its label; None where there is no room near it.
    """
    room = _Room(bounds, [Box(x - 7, y - 7, x + 7, y + 7) for x, y, _ in spots], list(lines))
    placed: list[Placed | None] = []
    for index, (x, y, text) in enumerate(spots):
        found = next((label for label in _beside(x, y, text) if room.free(label_box(label), index)), None)
        if found is None and index < _LED:
            found = next((label for label in _around(x, y, text) if _fits(room, label, (x, y), index)), None)
        if found is not None:
            room.boxes.append(label_box(found))
            if end := leader(x, y, found):
                room.leaders.append((x, y, *end))
        placed.append(found)
    return placed


def _fits(room: _Room, label: Placed, mark: tuple[float, float], index: int) -> bool:
    if not room.free(label_box(label), -1):
        return False
    end = leader(*mark, label)
    return end is None or room.clear((*mark, *end), index)


def _beside(x: float, y: float, text: str) -> list[Placed]:
    return [
        (x + 7, y - 9, "start", text),
        (x - 7, y - 9, "end", text),
        (x + 9, y + 4, "start", text),
        (x - 9, y + 4, "end", text),
        (x + 7, y + 17, "start", text),
        (x - 7, y + 17, "end", text),
        (x, y - 12, "middle", text),
        (x, y + 20, "middle", text),
    ]


def _around(x: float, y: float, text: str) -> list[Placed]:
    """Places of a grid around the mark, the nearest first: the label to its right, to its left, or over it."""
    columns, rows = int(_REACH // 10), int(_REACH // 6)
    found = []
    for column in range(-columns, columns + 1):
        anchor = "start" if column > 1 else "end" if column < -1 else "middle"
        found += [(x + 10 * column, y + 4 + 6 * row, anchor, text) for row in range(-rows, rows + 1)]
    near = [label for label in found if _distance(x, y, label) <= _REACH]
    return sorted(near, key=lambda label: _distance(x, y, label))


def _distance(x: float, y: float, label: Placed) -> float:
    at = _nearest(x, y, label)
    return math.hypot(at[0] - x, at[1] - y)


def _nearest(x: float, y: float, label: Placed) -> tuple[float, float]:
    box = label_box(label)
    return min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)


def leader(x: float, y: float, label: Placed) -> tuple[float, float] | None:
    """Where a line from the mark to its label ends; None where the label stands beside it."""
    return _nearest(x, y, label) if _distance(x, y, label) > 14 else None


def draw_labels(drawing: Drawing, spots: Sequence[Spot], placed: Sequence[Placed | None], kind: str) -> None:
    """The labels that have a place, with a line to the mark of those that stand apart."""
    for (x, y, _), label in zip(spots, placed, strict=True):
        if label is not None and (end := leader(x, y, label)):
            drawing.line(x, y, *end, "leader")
    for label in placed:
        if label is not None:
            drawing.text(label[0], label[1], label[3], kind, label[2])
