"""Small inline SVG: scales, ticks, and marks whose text is escaped. Colours come from the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480.0, 320.0
CHARACTER = 7.4
"""Mean width of a character at the label size: enough to keep labels apart without a font engine."""


@dataclass(frozen=True)
class Scale:
    """Data to drawing units, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of a value; what lies outside is held at the edge."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        share = (at - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the range, about five of them."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def fit_scale(
    values: Sequence[float], start: float, end: float, *, log: bool | None = None, pad: float = 0.06
) -> Scale:
    """A scale around the values, with some air. `log=None` chooses: logarithmic where they span a factor of five.

    Raises:
        ValueError: no values.
    """
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high / low >= 5
    if log:
        room = max(math.log(high / low) * pad, math.log(1.15))
        return Scale(low / math.exp(room), high * math.exp(room), start, end, True)
    room = max((high - low) * pad, abs(high) * 0.01, 1e-9)
    return Scale(low - room, high + room, start, end)


def _linear_ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(multiple * power for multiple in (1, 2, 2.5, 5, 10) if multiple * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**p for p in powers for m in multiples if low <= m * 10.0**p <= high]
        if len(ticks) <= 7:
            break
    return ticks if len(ticks) >= 2 else [low, high]


@dataclass
class Drawing:
    """Elements of one chart, in drawing order."""

    label: str
    width: float = WIDTH
    height: float = HEIGHT
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, title: str = "", body: str = "", **attributes: object) -> None:
        """One element; `class_` becomes `class`, underscores become hyphens, a title shows on hover."""
        pairs = "".join(
            f' {"class" if key == "class_" else key.replace("_", "-")}="{escape(_short(value))}"'
            for key, value in attributes.items()
        )
        inner = (f"<title>{escape(title)}</title>" if title else "") + str(escape(body))
        self.parts.append(f"<{tag}{pairs}>{inner}</{tag}>" if inner else f"<{tag}{pairs}/>")

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def text(self, x: float, y: float, body: str, class_: str = "label", anchor: str = "start") -> None:
        self.add("text", body=body, x=x, y=y, class_=class_, text_anchor=anchor)

    def path(self, points: Sequence[tuple[float, float]], class_: str, title: str = "") -> None:
        """A polyline."""
        if points:
            d = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            self.add("path", title=title, d=d, class_=class_)

    def marker(self, x: float, y: float, role: str, title: str, hollow: bool = False) -> None:
        """Teacher: a square. Control: a triangle. Student: a disc. So that no reading hangs on colour alone."""
        class_ = f"mark {role}{' hollow' if hollow else ''}"
        if role == "teacher":
            self.add("rect", title=title, x=x - 5, y=y - 5, width=10, height=10, rx=1.5, class_=class_)
        elif role == "control":
            self.add("path", title=title, d=f"M{x:.1f} {y - 6:.1f}L{x + 6:.1f} {y + 5:.1f}H{x - 6:.1f}Z", class_=class_)
        else:
            self.add("circle", title=title, cx=x, cy=y, r=5.5, class_=class_)

    def x_axis(self, scale: Scale, y: float, top: float, write: Callable[[float], str], title: str) -> None:
        """Ticks, their grid lines, and the name of the axis below. A number that would touch another is left out."""
        free = -math.inf
        for tick in scale.ticks():
            at, number = scale(tick), write(tick)
            self.line(at, top, at, y, "grid")
            half = CHARACTER * len(number) / 2
            if at - half > free:
                self.text(at, y + 17, number, "tick", "middle")
                free = at + half + CHARACTER / 2
        self.line(scale.start, y, scale.end, y, "axis")
        self.text((scale.start + scale.end) / 2, y + 36, title, "axis-title", "middle")

    def y_axis(self, scale: Scale, x: float, right: float, write: Callable[[float], str], title: str) -> None:
        """Ticks, their grid lines, and the name of the axis above."""
        for tick in scale.ticks():
            self.line(x, scale(tick), right, scale(tick), "grid")
            self.text(x - 7, scale(tick) + 4, write(tick), "tick", "end")
        self.text(4, 14, title, "axis-title")

    def render(self) -> Markup:
        """The SVG element. Everything in it was escaped on the way in."""
        return Markup(
            f'<svg class="chart" viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.label)}">{"".join(self.parts)}</svg>'
        )


def _short(value: object) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


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


Placed = tuple[float, float, str, str]
"""A label: x and y of its base line, anchor (start, end, middle), text."""


def label_box(label: Placed) -> Box:
    """The room that a label takes."""
    x, y, anchor, text = label
    wide = len(text) * CHARACTER
    left = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
    return Box(left, y - 11, left + wide, y + 4)


def place_labels(spots: Sequence[tuple[float, float, str]], bounds: Box) -> list[Placed | None]:
    """Where each label goes so that none covers a mark or another: beside its mark, else as near as there is room.

    Args:
        spots: marks with their label, the most important first.
        bounds: where labels may go.

    Returns:
        for each spot its label; None where no room is left inside the bounds.
    """
    taken = [Box(x - 7, y - 7, x + 7, y + 7) for x, y, _ in spots]
    placed: list[Placed | None] = []
    for index, (x, y, text) in enumerate(spots):
        others = [box for n, box in enumerate(taken) if n != index]
        found = next((label for label in _beside(x, y, text) if _free(label_box(label), bounds, others)), None)
        if found is None:
            found = next(
                (label for label in _around(x, y, text, bounds) if _free(label_box(label), bounds, taken)), None
            )
        if found is not None:
            taken.append(label_box(found))
        placed.append(found)
    return placed


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


def _around(x: float, y: float, text: str, bounds: Box) -> list[Placed]:
    """Every place of a grid over the bounds, the nearest first."""
    wide = len(text) * CHARACTER
    columns, rows = int((bounds.right - bounds.left - wide) // 8), int((bounds.bottom - bounds.top - 15) // 5)
    places = [
        (bounds.left + 8 * column, bounds.top + 11 + 5 * row)
        for column in range(columns + 1)
        for row in range(rows + 1)
    ]
    places.sort(key=lambda at: math.hypot(at[0] + wide / 2 - x, at[1] - 4 - y))
    return [(left, base, "start", text) for left, base in places]


def _free(box: Box, bounds: Box, taken: Sequence[Box]) -> bool:
    inside = (
        box.left >= bounds.left and box.right <= bounds.right and box.top >= bounds.top and box.bottom <= bounds.bottom
    )
    return inside and not any(box.meets(other) for other in taken)


def leader(x: float, y: float, label: Placed) -> tuple[float, float] | None:
    """Where a line from the mark to its label ends; None where the label stands beside it."""
    box = label_box(label)
    at = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
    return at if math.hypot(at[0] - x, at[1] - y) > 14 else None


def draw_labels(
    drawing: Drawing, spots: Sequence[tuple[float, float, str]], placed: Sequence[Placed], kind: str
) -> None:
    """Labels, with a line to the mark of those that stand apart; no line covers a label."""
    for (x, y, _), label in zip(spots, placed, strict=True):
        end = leader(x, y, label)
        if end is not None:
            drawing.line(x, y, *end, "leader")
    for label in placed:
        drawing.text(label[0], label[1], label[3], kind, label[2])
