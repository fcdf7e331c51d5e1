"""Small inline SVG: scales, ticks, and marks whose text is escaped. Colours come from the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, WIDTH - 14, 28.0, HEIGHT - 46
"""Where the lines of a chart lie: the frame of its axes."""
LABEL, TICK = 12.5, 12.0
"""Sizes of labels, and of the numbers and names of axes, as in report.css."""
LINE = 18.0
"""Height of a line of a legend."""
_NARROW = frozenset("ijlI.,:;'|![]()- /ftr`")
_BROAD = frozenset("mwMW@%")
_WIDE = frozenset('OQGDHNU&+<>=~^#_"')


def text_width(text: str, size: float = LABEL) -> float:
    """Room that a text takes, without a font engine: at least that of DejaVu Sans, the widest of the usual fonts."""
    em = sum(
        0.42 if char in _NARROW else 0.86 if char in _WIDE else 0.7 if char.isascii() and char not in _BROAD else 1.0
        for char in text
    )
    return em * size


def shorten(text: str, room: float) -> str:
    """The text, or as much of its beginning as there is room for at the size of a label."""
    if text_width(text) <= room:
        return text
    kept = next(n for n in range(len(text) - 1, -1, -1) if text_width(f"{text[:n]}...") <= room or n == 0)
    return f"{text[:kept]}..."


@dataclass(frozen=True)
class Key:
    """One entry of a legend: the class of a line, the role of a mark, or both; and what they stand for."""

    text: str
    line: str = ""
    role: str = ""


def legend_lines(keys: Sequence[Key]) -> list[list[tuple[float, Key]]]:
    """The lines of a legend: each entry with its x; as many on a line as there is room for."""
    lines: list[list[tuple[float, Key]]] = []
    at = WIDTH
    for key in keys:
        wide = 30 + text_width(key.text) + 16
        if not lines or at + wide > WIDTH + 16:
            lines.append([])
            at = 4.0
        lines[-1].append((at, key))
        at += wide
    return lines


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


def left_of(scale: Scale, write: Callable[[float], str]) -> float:
    """Where a chart begins so that the numbers of its y axis have room to its left; never further left than `LEFT`."""
    return max([LEFT, *(text_width(write(tick), TICK) + 9 for tick in scale.ticks())])


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
    return ticks if len(ticks) >= 2 else _linear_ticks(low, high)


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
        """Teacher, assistant: a square. Control: a triangle. Student: a disc. No reading hangs on colour alone."""
        class_ = f"mark {role}{' hollow' if hollow else ''}"
        if role in ("teacher", "assistant"):
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
            half = text_width(number, TICK) / 2
            middle = min(at, self.width + 8 - half)
            if middle - half > free:
                self.text(middle, y + 17, number, "tick", "middle")
                free = middle + half + 4
        self.line(scale.start, y, scale.end, y, "axis")
        self.text((scale.start + scale.end) / 2, y + 36, title, "axis-title", "middle")

    def y_axis(self, scale: Scale, x: float, right: float, write: Callable[[float], str], title: str) -> None:
        """Ticks, their grid lines, and the name of the axis above."""
        for tick in scale.ticks():
            self.line(x, scale(tick), right, scale(tick), "grid")
            self.text(x - 7, scale(tick) + 4, write(tick), "tick", "end")
        self.text(4, 14, title, "axis-title")

    def legend(self, keys: Sequence[Key], y: float) -> None:
        """Samples and what they stand for, under one another from `y` on; `legend_lines` says how many lines."""
        for number, line in enumerate(legend_lines(keys)):
            base = y + LINE * number + 13
            for x, key in line:
                if key.line:
                    self.line(x, base - 4, x + 24, base - 4, key.line)
                if key.role:
                    self.marker(x + 12, base - 4, key.role, "")
                self.text(x + 30, base, key.text, "label")

    def render(self) -> Markup:
        """The SVG element. Everything in it was escaped on the way in."""
        return Markup(
            f'<svg class="chart" viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.label)}">{"".join(self.parts)}</svg>'
        )


def _short(value: object) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
